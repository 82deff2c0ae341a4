"""`ReftModel`: attaches ReFT adapters to a model, as PEFT asks of a method."""

from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from heft.reft.config import ReftConfig
from heft.reft.layer import ReftLayer, layers_of
from heft.reft.sites import site_names
from heft.reft.streams import Streams
from heft.reft.tracker import ForwardTracker


class ReftModel(BaseTuner):
    """A model whose hidden states are edited by ReFT adapters.

    Made by PEFT from a `ReftConfig` (`get_peft_model`, `inject_adapter_in_model`, `PeftModel.from_pretrained`).
    """

    prefix = "reft_"
    tuner_layer_cls = ReftLayer
    target_module_mapping: dict[str, list[str]] = {}

    def __init__(self, model: nn.Module, peft_config, adapter_name: str, *args, **kwargs):
        """As PEFT's, for a model that may carry adapters already; those of ReFT that are active stay so.

        Raises:
            ValueError: the model is a PeftModel.
        """
        if isinstance(model, PeftModel):
            raise ValueError(
                "ReFT cannot be put around a PeftModel: names of saved tensors would change. Give the model within,"
                " which keeps its adapters: PeftModel.from_pretrained(model.get_base_model(), folder,"
                " adapter_name=...) or get_peft_model(model.get_base_model(), config, adapter_name=...). For a"
                " directory that heft wrote, call heft.load(directory)"
            )
        before = list(dict.fromkeys(name for layer in layers_of(model).values() for name in layer.active_adapters))
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        if before:
            self.active_adapter = [name for name in before if name != adapter_name] + [adapter_name]
            for layer in layers_of(self.model).values():  # as set_adapter does, but what trains stays as it is
                layer._active_adapter = [name for name in self.active_adapter if name in layer.positions]
        self._trained: set[str] = set()

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, state_dict=None, **kwargs) -> None:
        """Attach one adapter where its config says; a checkpoint's keys are not needed to find the places.

        Raises:
            ValueError: layers or sites that the model does not have, or a rank above the hidden size.
        """
        config = self.peft_config[adapter_name]
        self._streams = Streams.of(model.config)
        if config.rank > self._streams.width:
            raise ValueError(f"rank {config.rank} is above the model's hidden size, {self._streams.width}")
        self._sites = set(site_names(model, config.layers, config.site))
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge the LoRA adapters beneath; with None or a ReFT adapter's name, refuse before any weight is touched.

        Raises:
            ValueError: a ReFT adapter would have to be merged.
        """
        for layer in layers_of(self.model).values():
            layer.merge(adapter_names=adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def add_weighted_adapter(self, *args, **kwargs) -> None:
        """Refuse: edits are not linear in their weights, so no mixture of those is a mixture of edits.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "ReFT adapters cannot be combined by weighting their tensors, since an edit is not linear in them: activate"
            " several at once with base_model.set_adapter([...]), which edits one after the other"
        )

    def disable_adapter_layers(self) -> None:
        """Switch off all adapters of the model, LoRA ones too (see PEFT)."""
        self._trained |= {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        super().disable_adapter_layers()

    def enable_adapter_layers(self) -> None:
        """Switch all adapters on; what trains afterwards is what trained before (PEFT trains all that is active)."""
        trained = self._trained | {name for name, p in self.model.named_parameters() if p.requires_grad}
        super().enable_adapter_layers()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
        self._trained = set()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        """Where PEFT passes `adapter_names=[...]`, an adapter for each row: refused rather than ignored."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "ReFT cannot edit each row of a batch by another adapter: leave out adapter_names, and call the model"
                " once for each adapter after set_adapter(...)"
            )
        yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; a site that no adapter edits any more loses its hook."""
        super().delete_adapter(adapter_name)
        self._detach([layer for layer in layers_of(self.model).values() if not layer.positions])

    def _prepare_adapter_config(self, peft_config: ReftConfig, model_config: dict) -> ReftConfig:
        return peft_config

    def _check_target_module_exists(self, peft_config: ReftConfig, key: str) -> bool:
        return key in self._sites

    def _create_and_replace(
        self, peft_config: ReftConfig, adapter_name: str, target: nn.Module, *args, **kwargs
    ) -> None:
        layer = getattr(target, "reft", None)
        if layer is None:
            layer = ReftLayer(ForwardTracker.on(self.model), self._streams)
            layer.attach(target)
        device = next((p.device for p in target.parameters() if not p.is_meta), torch.device("cpu"))
        layer.add(adapter_name, peft_config, self._streams.width, device)
        if adapter_name not in self.active_adapters:
            layer.set_requires_grad(adapter_name, False)

    def _detach(self, layers: list[ReftLayer]) -> None:
        for name, layer in layers_of(self.model).items():
            if layer in layers:
                layer.detach(self.model.get_submodule(name.rpartition(".")[0]))

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs) -> nn.Module:
        if merge:
            raise ValueError(
                "ReFT edits hidden states and cannot be merged into weights; unload() removes the edits, and LoRA"
                " adapters beneath can be merged alone with merge_adapter(adapter_names=[...])"
            )
        self._detach(list(layers_of(self.model).values()))
        return super()._unload_and_optionally_merge(merge=False, **kwargs)
