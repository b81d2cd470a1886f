"""The objective that train.yaml asks for."""

from pangu.config import ModelConfig, TrainConfig
from pangu.foundation.errors import UserError
from pangu.tokenizer import Tokenizer
from pangu.training.data import PackedData
from pangu.training.objectives.batch import Objective
from pangu.training.objectives.causal import Causal, DomainCausal
from pangu.training.objectives.kinds import ObjectiveIds
from pangu.training.objectives.mixture import Mixture

SENTENCE_ENDS = "。！？!?；;…\n▃"


def objective_of(model: ModelConfig, config: TrainConfig, data: PackedData) -> Objective:
    """Return it. Raises UserError where model or corpus cannot do it."""
    asked = config.objectives
    end_of_document = data.end_of_document if config.document_reset else None
    by_domain = model.experts is not None and model.experts.by_domain
    if asked.is_causal:
        return (DomainCausal if by_domain else Causal)(end_of_document, data.pad, model.attention)
    if by_domain:
        raise UserError("objectives: experts by domain train causal rows only; leave them out, or take routing hash")
    if model.attention.pattern != "full":
        raise UserError(
            f"objectives: attention.pattern {model.attention.pattern!r} is for causal rows only, whose places stand in "
            "their order; take pattern full"
        )
    for name in ("permuted", "bidirectional"):
        if getattr(asked, name).share and not model.query_layer:
            raise UserError(
                f"objectives.{name}: nothing in a model with query_layer: false can be asked for another position "
                "than the next one; take a model with a query layer"
            )
    needs_mask = asked.bidirectional.share or asked.prefix.infilling
    if needs_mask and asked.mask_id >= data.vocab_size:
        raise UserError(f"objectives.mask_id {asked.mask_id}: the corpus's ids end at {data.vocab_size - 1}")
    ends = sentence_ends(data) if asked.prefix.sentence_shuffle else ()
    vocabulary = ObjectiveIds(data.vocab_size, asked.mask_id, ends)
    return Mixture(asked, vocabulary, end_of_document, data.pad, config.seed, config.batch_size)


def sentence_ends(data: PackedData) -> tuple[int, ...]:
    """Return the ids after which a sentence is over, by the corpus's tokenizer."""
    if not data.tokenizer_directory.is_dir():
        raise UserError(f"{data.directory}: objectives.prefix.sentence_shuffle needs its tokenizer, which is not there")
    tokenizer = Tokenizer.load(data.tokenizer_directory)
    texts = ((token, tokenizer.decode([token]).strip(" ")) for token in range(tokenizer.vocab_size))
    return tuple(token for token, text in texts if text and text[-1] in SENTENCE_ENDS)
