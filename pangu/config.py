"""What a model and a training run are made of: the two YAML files, with every default and every rule they must keep.

`model.yaml` is `ModelConfig`; the named sizes are the files in `pangu/sizes/`. `train.yaml` is `TrainConfig`.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pangu import parameters
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section, SettingsFile
from pangu.foundation.yaml_document import shown

SIZES_DIRECTORY = Path(__file__).parent / "sizes"

TrackerName = Literal["wandb", "swanlab"]
PositiveInt = Annotated[int, Field(gt=0)]


class ExpertsConfig(Section):
    """Experts in the place of the feed-forward part of some blocks (`pangu.model.experts`)."""

    count: int = Field(ge=2, description="experts of a layer")
    routing: Literal["switch", "top_k", "hash", "random_routed", "domain"] = Field(
        default="switch", description="who goes where: a learnt router (the first two), the token, or the document"
    )
    choices: PositiveInt = Field(default=1, description="experts that a token takes; more than one with top_k only")
    capacity_factor: float | None = Field(
        default=1.25, gt=0, description="in training, places of an expert over an even share of a row; null: no limit"
    )
    layers: tuple[int, ...] | None = Field(
        default=None, description="blocks that have experts, counted from 0; null: all. The query layer has none"
    )
    shared: int = Field(default=0, ge=0, description="experts of the same size that every token takes as well")
    domains: tuple[str, ...] = Field(
        default=(), description="the corpus's sources, in order, for domain (an expert each) and random_routed"
    )
    balance_loss: float = Field(default=0.01, ge=0, description="weight of the loss of uneven loads, with a router")
    z_loss: float = Field(default=0.001, ge=0, description="weight of the loss of large router logits")
    unit_gate: bool = Field(
        default=False, description="switch: the expert's output counts whole; its gradient is that of log p"
    )

    @model_validator(mode="before")
    @classmethod
    def fill_in(cls, fields: Any) -> Any:
        """Give what is not said the value that fits the routing."""
        if not isinstance(fields, dict):
            return fields
        routing, usual = fields.get("routing"), dict[str, Any]()
        if routing == "top_k":
            usual["choices"] = 2
        if routing in ("hash", "random_routed", "domain"):
            usual |= {"balance_loss": 0.0, "z_loss": 0.0}
        if routing in ("random_routed", "domain"):
            usual["capacity_factor"] = None
        return usual | fields

    @model_validator(mode="after")
    def check_routing(self) -> Self:
        if self.routing != "top_k" and self.choices != 1:
            raise ValueError(f"choices {self.choices}: routing {self.routing} takes 1; routing top_k takes more")
        if self.choices > self.count:
            raise ValueError(f"choices {self.choices}: there are {self.count} experts; nearest: {self.count}")
        if not self.has_router and (self.balance_loss or self.z_loss):
            raise ValueError(f"routing {self.routing} has no router: balance_loss and z_loss must be 0, or left out")
        if self.unit_gate and self.routing != "switch":
            raise ValueError(f"unit_gate goes with routing switch, not with {self.routing}")
        return self

    @model_validator(mode="after")
    def check_domains(self) -> Self:
        if not self.by_domain:
            if self.domains:
                raise ValueError(f"domains go with routing domain and random_routed, not with {self.routing}")
            return self
        if len(set(self.domains)) != len(self.domains) or not all(self.domains):
            raise ValueError(f"domains {list(self.domains)}: must be different names")
        if self.capacity_factor is not None:
            raise ValueError(
                f"capacity_factor {self.capacity_factor:g}: a row of one domain goes to few experts, so routing "
                f"{self.routing} has no limit: null, or left out"
            )
        if self.routing == "domain" and len(self.domains) != self.count:
            raise ValueError(f"routing domain needs as many domains as experts: {self.count}, not {len(self.domains)}")
        if not self.domains or self.count % len(self.domains):
            raise ValueError(
                f"count {self.count} must be a multiple of the {len(self.domains)} domains: each has a group of experts"
            )
        return self

    @property
    def has_router(self) -> bool:
        """Return whether the way to an expert is learnt."""
        return self.routing in ("switch", "top_k")

    @property
    def by_domain(self) -> bool:
        """Return whether a token's way depends on its document's domain."""
        return self.routing in ("random_routed", "domain")

    @property
    def table_rows(self) -> int:
        """Return how many rows the table of experts has; 0: there is none."""
        return {"hash": 1, "random_routed": len(self.domains)}.get(self.routing, 0)


class AttentionConfig(Section):
    """Which places before its own a place sees (`pangu.model.attention_pattern`)."""

    pattern: Literal["full", "sliding_window", "strided", "fixed"] = Field(
        default="full", description="full: all of them; the others leave places out (Child et al. 2019)"
    )
    span: PositiveInt | None = Field(
        default=None, description="places of the window, or of a stride or block; for every pattern but full"
    )
    summary: PositiveInt = Field(default=1, description="fixed: the last places of each block, which all see")

    @model_validator(mode="after")
    def check_span(self) -> Self:
        if (self.pattern == "full") != (self.span is None):
            raise ValueError(
                f"span goes with the patterns sliding_window, strided and fixed; pattern is {self.pattern!r}"
                + ("" if self.span else ": give one")
            )
        if self.span is not None and self.summary > self.span:
            raise ValueError(f"summary {self.summary}: a block has span = {self.span} places")
        if self.pattern != "fixed" and self.summary != 1:
            raise ValueError(f"summary {self.summary}: goes with the pattern fixed; pattern is {self.pattern!r}")
        return self


class ModelConfig(SettingsFile):
    """The network. The defaults of everything below the sizes are those that trained the released 2.6B and 13B weights.

    Every field that silently differed between the original's versions is explicit (sources: the original code r1.2 and
    master, and the PyTorch port, compared number by number).
    """

    num_layers: PositiveInt = Field(description="layers, the query layer counted")
    hidden_size: PositiveInt
    num_heads: PositiveInt
    ffn_hidden_size: PositiveInt
    seq_length: PositiveInt = Field(default=1024, description="longest context, rows of both position tables")
    vocab_size: PositiveInt = 40000
    query_layer: bool = Field(default=True, description="False: a plain GPT-3 decoder without the query layer")
    target_in_trunk: bool = Field(
        default=False, description="tell every layer which position is asked for: a table of them, zero at first"
    )
    final_norm: Literal["before_query", "after_query"] = Field(
        default="before_query", description="after_query is what the original built whenever it used a pipeline"
    )
    attention: AttentionConfig = AttentionConfig()
    activation: Literal["gelu_tanh", "gelu_erf", "fast_gelu"] = "gelu_tanh"
    softmax_dtype: Literal["fp32", "fp16"] = "fp32"
    compute_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp16", description="matrix products and the residual stream; embeddings, norms and loss are fp32"
    )
    initializer: Literal["released", "master"] = "released"
    dropout_rate: float = Field(default=0.1, ge=0, lt=1, description="used in training only")
    experts: ExpertsConfig | None = Field(default=None, description="null: every layer is dense")

    @model_validator(mode="after")
    def check_heads(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}; "
                f"the nearest that is: {max(1, round(self.hidden_size / self.num_heads)) * self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def check_query_layer(self) -> Self:
        if self.query_layer and self.num_layers < 2:
            raise ValueError("num_layers must be at least 2 where there is a query layer, which is one of them")
        if not self.query_layer and self.final_norm == "after_query":
            raise ValueError("final_norm 'after_query' needs query_layer: true")
        if self.target_in_trunk and not self.query_layer:
            raise ValueError("target_in_trunk needs query_layer: true, which is what asks for a position")
        return self

    @model_validator(mode="after")
    def check_experts(self) -> Self:
        layers = self.experts.layers if self.experts else None
        if layers is None:
            return self
        if not layers or sorted(set(layers)) != list(layers):
            raise ValueError(f"experts.layers {list(layers)}: must be numbers of blocks, each once, in order")
        wrong = [layer for layer in layers if not 0 <= layer < self.num_blocks]
        if wrong:
            last = "; the query layer stays dense" if self.query_layer else ""
            raise ValueError(f"experts.layers: there is no block {wrong[0]}: they are 0 to {self.num_blocks - 1}{last}")
        return self

    @property
    def expert_shape(self) -> parameters.ExpertShape | None:
        """Return what the shapes of experts depend on; None: the network is dense."""
        experts = self.experts
        if experts is None:
            return None
        layers = tuple(range(self.num_blocks)) if experts.layers is None else experts.layers
        return parameters.ExpertShape(experts.count, layers, experts.shared, experts.has_router, experts.table_rows)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_blocks(self) -> int:
        """Return layers that are not the query layer."""
        return self.num_layers - int(self.query_layer)

    @property
    def num_parameters(self) -> int:
        """Return the exact count: L (4d²+4d + 2df+f+d + 4d) + V d + S d (twice with a query layer) + 2d; S d for the
        target."""
        return parameters.count(self)

    @property
    def training_flops_per_token(self) -> int:
        """Return forward and backward model FLOPs a token, without recomputation: three times the forward's.

        Matrix products only: 2 FLOPs a weight of the layers and the output matrix, and 4·S·d a layer for scores and
        context over the whole context (Narayanan et al. 2021, eq. 3, counted the same way).
        """
        hidden, ffn = self.hidden_size, self.ffn_hidden_size
        layer = 2 * (4 * hidden**2 + 2 * hidden * ffn) + 4 * self.seq_length * hidden
        forward = self.num_layers * layer + 2 * hidden * self.vocab_size
        if self.experts and self.expert_shape:
            more = self.experts.choices + self.experts.shared - 1
            router = 2 * hidden * self.experts.count * self.experts.has_router
            forward += len(self.expert_shape.layers) * (more * 4 * hidden * ffn + router)
        return 3 * forward


def size_names() -> list[str]:
    """Return names of the sizes that come with the project, smallest first."""
    names = [path.stem for path in SIZES_DIRECTORY.glob("*.yaml")]
    return sorted(names, key=lambda name: (load_size(name).num_parameters, name))


def load_size(name: str) -> ModelConfig:
    """Return a named size, e.g. `tiny` or `2.6B`; or the path of a `model.yaml`."""
    path = SIZES_DIRECTORY / f"{name}.yaml"
    if path.is_file():
        return ModelConfig.load(path)
    if Path(name).is_file():
        return ModelConfig.load(name)
    raise UserError(f"size {shown(name, 200)} is neither one of {', '.join(size_names())} nor the path of a model.yaml")


class LearningRateConfig(Section):
    """Linear warm-up, then a cosine that counts from step 0, or a stable part (`pangu.training.schedule`)."""

    peak: float = Field(default=1e-4, gt=0, description="highest rate (2.6B 1e-4, 13B 5e-5, 200B 6e-5)")
    end: float = Field(default=1e-6, ge=0, description="rate from decay_steps on")
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of linear growth from 0; null: 2000, or a tenth of a shorter schedule"
    )
    decay_steps: PositiveInt | None = Field(
        default=None, description="length of the schedule; null: the steps that the run begins with"
    )
    shape: Literal["cosine", "warmup_stable_decay"] = Field(
        default="cosine", description="warmup_stable_decay: the peak until cooldown_steps before the end, then a line"
    )
    cooldown_steps: PositiveInt | None = Field(
        default=None, description="the line at the end of warmup_stable_decay; null: a tenth of the schedule"
    )
    begin_step: int = Field(
        default=0, ge=0, description="updates after which this schedule begins: a run goes on with its moments"
    )


class OptimizerConfig(Section):
    """AdamW (`pangu.training.optimizer.AdamW`)."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="for everything but norms and biases")
    clip_norm: float = Field(default=1.0, gt=0, description="largest global norm of the gradients")
    bias_correction: bool = Field(
        default=False, description="true: the textbook's Adam; false: the original's, which has none"
    )


class LossScaleConfig(Section):
    """Dynamic loss scale; used with fp16 only."""

    initial: float = Field(default=float(2**16), ge=1, description="of the loss; the original began with 2**32")
    growth_steps: PositiveInt = Field(default=1000, description="good steps in a row after which the scale doubles")
    give_up_after: PositiveInt = Field(default=100, description="overflows in a row that end the run with an error")


class ObjectiveConfig(Section):
    """How many of the rows have an objective."""

    share: float = Field(default=0.0, ge=0, le=1, description="of the rows; 0.5 keeps what causal rows have taught")
    ramp_steps: int = Field(default=0, ge=0, description="steps in which the share rises to that from 0")


class PermutedConfig(ObjectiveConfig):
    """Tokens in a random order."""

    gaps: float = Field(
        default=0.0, ge=0, le=1, description="of these rows: some places are left for last, as filling reads a text"
    )


class PrefixConfig(ObjectiveConfig):
    """A first part whose tokens all see each other; the rest is predicted."""

    infilling: float = Field(default=0.0, ge=0, le=1, description="of these rows: the prefix is the text with gaps")
    sentence_shuffle: float = Field(
        default=0.0, ge=0, le=1, description="of these rows: the prefix is the text's sentences in another order"
    )

    @model_validator(mode="after")
    def check_corruptions(self) -> Self:
        if self.infilling + self.sentence_shuffle > 1:
            raise ValueError(
                f"infilling {self.infilling} and sentence_shuffle {self.sentence_shuffle}: must be 1 at most together"
            )
        return self


class ObjectivesConfig(Section):
    """What rows are trained for (`pangu.training.objectives`); those of no share are causal."""

    permuted: PermutedConfig = PermutedConfig()
    prefix: PrefixConfig = PrefixConfig()
    bidirectional: ObjectiveConfig = ObjectiveConfig()
    mask_id: int = Field(default=7, ge=0, description="what stands for a hidden token; <mask> of the released ids")

    @model_validator(mode="after")
    def check_shares(self) -> Self:
        total = self.permuted.share + self.prefix.share + self.bidirectional.share
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of permuted, prefix and bidirectional are {total:g} together: 1 at most")
        return self

    @property
    def is_causal(self) -> bool:
        """Return whether every row is."""
        return not (self.permuted.share or self.prefix.share or self.bidirectional.share)


class TrainConfig(SettingsFile):
    """`train.yaml`: one training run."""

    written_by: ClassVar[str] = "python -m pangu init"

    data: str = Field(description="directory of the packed corpus (python -m data_pipeline run ...)")
    out: str = Field(description="directory of the run; a run that is there goes on from its newest checkpoint")
    model: str = Field(default="tiny", description="name of a size (python -m pangu sizes) or path of a model.yaml")
    fit_vocabulary: bool = Field(
        default=False, description="take vocab_size from the corpus's tokenizer instead of from the model"
    )
    precision: Literal["fp32", "fp16", "bf16"] | None = Field(
        default=None, description="null: the model's compute_dtype"
    )
    start_from: str | None = Field(
        default=None, description="weights to begin with (a run, a checkpoint or a .safetensors file); null: random"
    )
    steps: PositiveInt = Field(default=1000, description="updates of the weights")
    batch_size: PositiveInt = Field(default=8, description="samples an update sees")
    accumulate: PositiveInt = Field(
        default=1, description="micro-batches that batch_size is computed in, to save memory"
    )
    document_reset: bool = Field(
        default=True, description="documents of one sample do not see each other; false: they do, as in GPT-3"
    )
    recompute: bool = Field(default=False, description="save memory: recompute each layer in the backward pass")
    seed: int = Field(default=1, ge=0, lt=2**31)
    objectives: ObjectivesConfig = ObjectivesConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss_scale: LossScaleConfig = LossScaleConfig()
    skip_above_norm: float | None = Field(
        default=None, gt=0, description="skip an update with a larger gradient, or none; its samples are named"
    )
    evaluate_every: PositiveInt = Field(default=100, description="steps between validations")
    evaluate_samples: PositiveInt = Field(default=256, description="validation samples that an evaluation reads")
    checkpoint_every: PositiveInt = Field(default=100, description="steps between checkpoints; each is evaluated too")
    sample_prompts: list[str] = Field(default=[], description="prompts that are continued at each evaluation")
    sample_tokens: PositiveInt = Field(default=40, description="new tokens of each such text")
    track: TrackerName | None = Field(default=None, description="a tracking service that is told the metrics too")
    keep_last: PositiveInt = Field(
        default=2, description="checkpoints kept; the one with the best evaluation stays as well"
    )
    device: Literal["CPU", "Ascend", "GPU"] = Field(default="CPU", description="where to run")
    engine: Literal["compiled", "mindspore"] | None = Field(
        default=None, description="what computes a step; null: compiled on a CPU where it can, elsewhere MindSpore"
    )

    @model_validator(mode="after")
    def check_accumulate(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        return self
