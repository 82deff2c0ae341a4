"""What `heft` exports, for type checkers and editors; the package itself imports each when it is first used."""

from heft.adapters.load import load as load
from heft.adapters.stacking import stack as stack
from heft.api.predict import predict as predict
from heft.api.result import Result as Result
from heft.api.train import train as train
from heft.edits.settings import ReftSettings as ReftSettings
from heft.errors import HeftError as HeftError
from heft.evaluation import evaluate as evaluate
from heft.recipe.files import load_recipe as load_recipe
from heft.recipe.model import ModelSettings as ModelSettings
from heft.recipe.recipe import EvaluationSettings as EvaluationSettings
from heft.recipe.recipe import JointStage as JointStage
from heft.recipe.recipe import LoraSettings as LoraSettings
from heft.recipe.recipe import LoraStage as LoraStage
from heft.recipe.recipe import Recipe as Recipe
from heft.recipe.recipe import ReftStage as ReftStage
from heft.recipe.training import CheckpointSettings as CheckpointSettings
from heft.recipe.training import EarlyStoppingSettings as EarlyStoppingSettings
from heft.runtime.reporter import Reporter as Reporter
from heft.tasks.base import TaskSettings as TaskSettings
from heft.tasks.rows import RowsSettings as RowsSettings

__version__: str
