"""The entries of an architecture: how its classes name their modules, attributes and settings of the config."""

from dataclasses import dataclass

from ..errors import InvalidInputError


@dataclass(frozen=True)
class Projection:
    """Rows of a linear layer: the `place`-th of `parts` equal parts of its output features."""

    module: str
    place: int = 0
    parts: int = 1


@dataclass(frozen=True)
class AttentionLayout:
    """The modules of an attention, by their names in the block.

    Args:
        core: the module that is called with the hidden states, and attends.
        query, key, value: whose rows make its heads.
        output: the linear layer whose columns read the heads. It may lie inside the core.
        head_size: attribute of the core with the features of one head.
        counts, widths: attributes of the core with the number of query heads, and with their features.
        cross: whether keys and values come from an encoder.
        constant: whether a head with the same values at every position gives just these, to the last digits, unless the
            core's attribute `is_causal` is True. Not so where a position may see none (causal, and padded on the left), or
            the softmax is taken in fp32 whatever the dtype.
        extra_outputs: how many values follow the output in the tuple that the core returns.
        positions: the table of position biases in the core, a column a head, that the first attention of a stack holds.
        passes_bias: whether the attentions of a stack hand on a position bias for all heads from one to the next.
    """

    core: str
    query: Projection
    key: Projection
    value: Projection
    output: str
    head_size: str
    counts: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    cross: bool = False
    constant: bool = False
    extra_outputs: int = 1
    positions: str | None = None
    passes_bias: bool = False

    @property
    def projections(self) -> tuple[Projection, Projection, Projection]:
        return self.query, self.key, self.value


@dataclass(frozen=True)
class FeedForwardLayout:
    """The modules of a feed-forward layer, by their names in the block.

    Args:
        first: one linear layer, or two where the second is multiplied with the activation of the first.
        second: the linear layer whose columns read the neurons.
        activation: attribute of the block, as "intermediate.activation", with the function between them.
    """

    first: tuple[str, ...]
    second: str
    activation: str


@dataclass(frozen=True)
class SizeSettings:
    """Settings of the config that state sizes.

    Args:
        neurons: of a feed-forward layer.
        heads, groups: query heads, and key and value heads, where the config states a head size too. None where the size of
            a head follows from their number: fewer heads of the same size cannot be stated then.
        head_size: features of a head.
        width, epsilon: features of the residual stream, and the epsilon of its RMSNorms; None in a model with LayerNorm.
    """

    neurons: str
    heads: str | None = None
    groups: str | None = None
    head_size: str | None = None
    width: str | None = None
    epsilon: str | None = None


@dataclass(frozen=True)
class ClassLayout:
    """An entry for the classes of these names."""

    classes: tuple[str, ...]


@dataclass(frozen=True)
class BlockLayout(ClassLayout):
    """A transformer block.

    Args:
        attentions, feed_forwards: of which a block has those that exist in it.
        sizes: how the config states its sizes.
        norms: the RMSNorms before each sublayer, with their epsilon in `variance_epsilon`; empty in a model with LayerNorm.
        removable: whether a block without heads and neurons can be taken out: it only adds to its input, so it changes
            nothing. A block with a norm after each sublayer changes its input all the same.
    """

    attentions: tuple[AttentionLayout, ...]
    feed_forwards: tuple[FeedForwardLayout, ...]
    sizes: SizeSettings
    norms: tuple[str, ...] = ()
    removable: bool = False


@dataclass(frozen=True)
class StreamLayout(ClassLayout):
    """The two ends of a residual stream: the embedding tables that feed it, and the norm that ends it.

    Args:
        tables: the embedding tables whose vectors are summed.
        norm: the final RMSNorm; None in a model with LayerNorm.
    """

    tables: tuple[str, ...]
    norm: str | None = None


@dataclass(frozen=True)
class EncoderLayout(ClassLayout):
    """An encoder that can run fused: its list `layer` holds blocks with a LayerNorm after each sublayer.

    Its forward pass takes hidden states and a mask, and returns Transformers' BaseModelOutput.

    Args:
        block: of its layers, with query, key, value and one first feed-forward matrix apart.
        norms: the LayerNorm after the attention, and the one at the end of the block.
        positions: the method of the encoder that returns the position biases of its attentions; None if it has none.
    """

    block: BlockLayout
    norms: tuple[str, str]
    positions: str | None = None

    def __post_init__(self) -> None:
        modules = self.matrices
        if len(set(modules)) != 6:
            raise InvalidInputError(
                f"An encoder runs fused with six matrices of their own in each layer, got {', '.join(modules)}. Leave its "
                "EncoderLayout out: its layers become sparse one by one."
            )

    @property
    def matrices(self) -> tuple[str, ...]:
        """The linear layers of query, key, value, the output of the attention, and the two of the feed-forward layer."""
        attention, feed_forward = self.block.attentions[0], self.block.feed_forwards[0]
        projections = (projection.module for projection in attention.projections)
        return *projections, attention.output, *feed_forward.first, feed_forward.second
