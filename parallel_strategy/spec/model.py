"""model.yaml: any GPT-like network, by its sizes.

The fields that `pangu` writes are read as they are (`num_layers` counts PanGu-alpha's query layer); the rest has
defaults that give a GPT-2 / GPT-3 block, and Llama, ChatGLM, Qwen, Mixtral and DeepSeek are the same file with other
values.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, PositiveInt, model_validator

from pangu.foundation.yaml_document import shown
from parallel_strategy.spec.file import PRESETS, Section, SpecFile

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "fp4": 1}

Size = Annotated[int, Field(gt=0, le=10**9)]


class Experts(Section):
    """A mixture of experts in place of the feed-forward layer."""

    count: Annotated[int, Field(gt=0, le=100_000)]
    top_k: PositiveInt = Field(default=2, validation_alias=AliasChoices("top_k", "choices"))
    ffn_hidden_size: PositiveInt = Field(description="of one expert")
    shared: int = Field(default=0, ge=0, description="experts of the same size that every token takes")
    capacity_factor: float = Field(default=1.0, gt=0, description="tokens an expert takes, over the balanced number")
    first_layer: int = Field(default=0, ge=0, description="layers before this one keep the dense feed-forward layer")
    routing: Literal["switch", "top_k", "hash", "random_routed", "domain"] | None = Field(
        default=None, description="as in pangu's model.yaml; absent: of another project's network"
    )
    unlimited: bool = Field(default=False, description="no token is dropped: experts have as many places as are wanted")
    domains: tuple[str, ...] = ()
    balance_loss: float = Field(default=0.0, ge=0)
    z_loss: float = Field(default=0.0, ge=0)
    unit_gate: bool = False

    @model_validator(mode="after")
    def check_choices(self) -> "Experts":
        if self.top_k > self.count:
            raise ValueError(f"top_k {self.top_k}: there are {self.count} experts; nearest: {self.count}")
        return self


class LatentAttention(Section):
    """DeepSeek's multi-head latent attention: low-rank projections of queries and of keys with values."""

    query_rank: int = Field(ge=0, description="0: queries are projected directly")
    key_value_rank: PositiveInt
    head_size: PositiveInt = Field(description="part of a query or key head without position")
    rotary_head_size: PositiveInt
    value_head_size: PositiveInt


class Attention(Section):
    """What a token sees. A model that is trained has this section too; costs are known of the full pattern alone."""

    pattern: Literal["full"] = Field(default="full", description="sparse patterns have no cost here")
    span: None = Field(default=None, description="of sparse patterns")
    summary: PositiveInt = Field(default=1, description="of sparse patterns")


class ModelSpec(SpecFile):
    """The network, as far as its cost depends on it."""

    name: str = "model"
    num_layers: PositiveInt = Field(le=10_000, description="layers, the query layer counted")
    hidden_size: Size
    num_heads: Size
    ffn_hidden_size: Size
    seq_length: Size = 1024
    vocab_size: Size = 40000
    query_layer: bool = False
    final_norm: Literal["before_query", "after_query"] = "before_query"
    activation: Literal["gelu_tanh", "gelu_erf", "fast_gelu", "silu", "relu"] = "gelu_tanh"
    kv_heads: PositiveInt | None = Field(default=None, description="grouped-query attention; absent: as many as heads")
    head_size: Size | None = Field(default=None, description="absent: hidden_size / num_heads")
    gated_ffn: bool = Field(default=False, description="SwiGLU and its kin: two up projections")
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    position: Literal["learned", "rotary", "alibi", "none"] = "learned"
    bias: bool = True
    tied_embedding: bool = True
    experts: Experts | None = None
    latent_attention: LatentAttention | None = None
    attention: Attention = Attention()
    prediction_layers: int = Field(default=0, ge=0, description="extra multi-token prediction layers")
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    compute_dtype: Literal["fp32", "fp16", "bf16", "fp8", "fp4"] = "fp16"
    softmax_dtype: Literal["fp32", "fp16"] = "fp32"
    initializer: Literal["released", "master"] = "released"
    target_in_trunk: Literal[False] = Field(default=False, description="a table that strategies do not know")

    @classmethod
    def presets_directory(cls) -> Path:
        return PRESETS / "models"

    @model_validator(mode="before")
    @classmethod
    def read_pangu_experts(cls, fields: Any) -> Any:
        """Read experts as `pangu` writes them: which blocks have them, and null where their places are not limited."""
        experts = fields.get("experts") if isinstance(fields, dict) else None
        if not isinstance(experts, dict) or "routing" not in experts:
            return fields
        query_layer = fields.get("query_layer", True)  # pangu's default
        num_layers, layers = fields.get("num_layers"), experts.get("layers")
        if not isinstance(num_layers, int) or not isinstance(layers, list | tuple | None):
            return fields  # the checks of the fields say what is wrong
        blocks = num_layers - int(bool(query_layer))
        experts = {"ffn_hidden_size": fields.get("ffn_hidden_size")} | experts
        experts.setdefault("choices" if "top_k" not in experts else "top_k", 2 if experts["routing"] == "top_k" else 1)
        experts.pop("layers", None)
        if layers is not None:
            if not layers or list(layers) != list(range(blocks - len(layers), blocks)):
                said = shown(list(layers))
                raise ValueError(f"experts.layers {said}: a strategy knows experts in the last blocks only")
            experts["first_layer"] = layers[0]
        if experts.get("capacity_factor", 1.25) is None:
            experts |= {"capacity_factor": 1.0, "unlimited": True}
        experts.setdefault("capacity_factor", 1.25)
        return fields | {"query_layer": query_layer, "experts": experts}

    @model_validator(mode="after")
    def check_heads(self) -> "ModelSpec":
        if self.head_size is None and self.latent_attention is None and self.hidden_size % self.num_heads:
            nearest = max(1, round(self.hidden_size / self.num_heads)) * self.num_heads
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}; nearest: {nearest}"
            )
        if self.kv_heads is not None and self.num_heads % self.kv_heads:
            legal = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            nearest = min(legal, key=lambda k: abs(k - (self.kv_heads or 1)))
            raise ValueError(f"kv_heads {self.kv_heads} must divide num_heads {self.num_heads}; nearest: {nearest}")
        if self.experts is not None and self.experts.first_layer >= self.num_layers:
            raise ValueError(
                f"experts.first_layer {self.experts.first_layer}: there are {self.num_layers} layers, counted from 0; "
                f"nearest: {self.num_layers - 1}"
            )
        if self.query_layer and self.num_layers < 2:
            raise ValueError("num_layers must be at least 2 where there is a query layer, which is one of them")
        return self

    @property
    def head_width(self) -> int:
        """Return width of one query / key head."""
        if self.latent_attention is not None:
            return self.latent_attention.head_size + self.latent_attention.rotary_head_size
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def value_head_width(self) -> int:
        return self.latent_attention.value_head_size if self.latent_attention is not None else self.head_width

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.num_heads

    @property
    def element_bytes(self) -> int:
        """Return bytes of one activation element; fp8 and fp4 compute in fewer bits but keep activations in 16."""
        return max(2, BYTES[self.compute_dtype])

    @property
    def activation_dtype(self) -> str:
        return "bf16" if self.compute_dtype in ("fp8", "fp4") else self.compute_dtype

    def is_expert_layer(self, layer: int) -> bool:
        """Return whether a layer has experts; a query layer has none."""
        is_query_layer = self.query_layer and layer == self.num_layers - 1
        return self.experts is not None and layer >= self.experts.first_layer and not is_query_layer
