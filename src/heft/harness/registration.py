"""The harness itself: whether it is installed, with what heft uses of it, and the class that it is told of."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from heft.errors import HeftError

NAME = "heft"
INSTALL = "pip install 'heft[harness]'"
_CLASS = "heft.harness.model:HeftLM"
_USED = {
    "lm_eval": ("simple_evaluate",),
    "lm_eval.api.instance": ("Instance",),
    "lm_eval.api.model": ("TemplateLM",),
    "lm_eval.api.registry": ("model_registry",),
    "lm_eval.models.utils": ("normalize_gen_kwargs", "resolve_max_length"),
    "lm_eval.tasks": ("TaskManager",),
    "lm_eval.utils": ("get_rolling_token_windows", "make_disjoint_window", "handle_non_serializable"),
}
"""What heft uses of the harness, by module."""


def harness_version() -> str:
    """The installed version of lm-eval.

    Raises:
        HeftError: none is installed.
    """
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise HeftError(f"lm-evaluation-harness is not installed; install it with: {INSTALL}") from None


def require_harness() -> None:
    """Require that the harness is installed and has all that heft uses of it.

    Raises:
        HeftError: it is not, or is of a version that lacks something; all of that is named.
    """
    installed, missing = harness_version(), []
    for module, names in _USED.items():
        try:
            found = import_module(module)
        except ImportError as error:
            missing.append(f"{module} ({error})")
            continue
        missing += [f"{module}.{name}" for name in names if not hasattr(found, name)]
    if missing:
        raise HeftError(
            f"lm-eval {installed} is installed, which lacks {', '.join(missing)}; heft is made for 0.4.13: {INSTALL}"
        )


def register() -> None:
    """Tell the harness of the model class `heft`, which is imported when the harness makes a model of it.

    Raises:
        HeftError: the harness is not installed, or has no place for it.
    """
    installed = harness_version()
    try:
        import lm_eval.models  # noqa: F401 - its own classes first: it looks for them only where none is registered
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise HeftError(
            f"lm-eval {installed} has no registry of models as heft uses it ({error}); heft is made for 0.4.13:"
            f" {INSTALL}"
        ) from None
    if NAME not in model_registry:
        model_registry.register(NAME, target=_CLASS)
