"""Language models: embedding, recurrent layers, output layer; and their width from a budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netwright.children.output import Output, check_cutoffs
from netwright.children.recurrent import Recurrent
from netwright.errors import ConfigError, out_of_range
from netwright.spaces.recurrent import Cell

GATES = {"lstm": 4, "gru": 3}
NARROWEST = 8
State = list[tuple[Tensor, Tensor]]
Core = Cell | str


@dataclass(frozen=True, kw_only=True)
class LanguageChildSettings:
    """What a language model is made of, apart from its cell.

    layers: recurrent ones, >= 1 (2).
    budget: parameters that the width is solved for, >= 1 (20 million; paper, 4.2).
    width: hidden units instead of a budget, 0 for the budget's.
    embedding: units of an embedded word, 0 for the width.
    shared: whether the output layer has the embedding's weights; needs embedding = 0.
    bias: whether the cell's products have biases (the paper's have none).
    cutoffs: places that rise in the vocabulary, for an adaptive softmax; none for a softmax, see
        `Output`.
    """

    layers: int = 2
    budget: int = 20_000_000
    width: int = 0
    embedding: int = 0
    shared: bool = False
    bias: bool = False
    cutoffs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, low in (("layers", 1), ("budget", 1), ("width", 0), ("embedding", 0)):
            if getattr(self, name) < low:
                rule = f"must be {low} or more"
                raise ConfigError(out_of_range(f"child.{name}", rule, getattr(self, name)))
        if self.shared and self.embedding:
            raise ConfigError(
                f"child.embedding must be 0 where child.shared is true; got {self.embedding}; use "
                f"--set child.embedding=0"
            )


def gates(core: Core | int) -> int:
    """Return the blocks of the width's size in a layer: B of a cell, 4 of LSTM, 3 of GRU."""
    if isinstance(core, int):
        return core
    return core.base if isinstance(core, Cell) else GATES[core]


def parameters_at(
    core: Core | int, vocabulary: int, settings: LanguageChildSettings, width: int
) -> int:
    """Return the parameters of the model of width `width`; a number stands for a cell's B."""
    embedding = settings.embedding or width
    biases = 2 if settings.bias else 0
    cells = sum(
        gates(core) * width * ((width if layer else embedding) + width + biases)
        for layer in range(settings.layers)
    )
    output = vocabulary if settings.shared else vocabulary * (width + 1)
    output += len(settings.cutoffs) * (width + 1)
    return cells + vocabulary * embedding + output


def solve_width(core: Core | int, vocabulary: int, settings: LanguageChildSettings) -> int:
    """Return the width whose parameters come nearest to the budget.

    Raises `ConfigError` for a budget that a width of 8 exceeds, and for cutoffs beyond the
    vocabulary.
    """
    check_cutoffs(settings.cutoffs, vocabulary)
    if settings.width:
        return settings.width
    least = parameters_at(core, vocabulary, settings, NARROWEST)
    if least > settings.budget:
        raise ConfigError(
            f"child.budget must hold a model of width {NARROWEST}, {least:,} parameters for a "
            f"vocabulary of {vocabulary:,}; got {settings.budget:,}; use --set child.budget={least}"
        )
    low, high = NARROWEST, 2 * NARROWEST
    while parameters_at(core, vocabulary, settings, high) <= settings.budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if parameters_at(core, vocabulary, settings, middle) <= settings.budget:
            low = middle
        else:
            high = middle
    return min(
        (low, high),
        key=lambda w: abs(parameters_at(core, vocabulary, settings, w) - settings.budget),
    )


@dataclass(frozen=True, kw_only=True)
class Dropouts:
    """Shares in [0, 1) dropped in training.

    embedding: of the words, whole rows (Gal and Ghahramani 2016). input: of an embedded word.
    hidden: between layers. output: before the output layer. recurrent: of h_(t-1), the same units
    at every step. variational: the input, hidden and output masks hold for all steps too, else
    they are drawn at every step (Zaremba et al. 2014).
    """

    embedding: float = 0.0
    input: float = 0.0
    hidden: float = 0.0
    output: float = 0.0
    recurrent: float = 0.0
    variational: bool = True


class LanguageModel(nn.Module):
    """Predicts the next unit of a text (paper, 4.2).

    core: a cell, "lstm" or "gru". scale: all weights start uniform in [-scale, scale].
    """

    def __init__(
        self,
        core: Core,
        vocabulary: int,
        settings: LanguageChildSettings,
        dropouts: Dropouts | None = None,
        scale: float = 0.05,
    ) -> None:
        super().__init__()
        self.core, self.settings = core, settings
        self.dropouts = dropouts or Dropouts()
        self.width = solve_width(core, vocabulary, settings)
        embedding = settings.embedding or self.width
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.layers = nn.ModuleList(
            Layer(core, self.width if layer else embedding, self.width, settings.bias)
            for layer in range(settings.layers)
        )
        self.output = Output(vocabulary, self.width, settings.cutoffs)
        if settings.shared:
            self.output.weight = self.embedding.weight
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -scale, scale)
        nn.init.zeros_(self.output.bias)

    def start(self, batch: int) -> State:
        """Return the state before a text: zeros, (h, c) of each layer, [batch, width]."""
        zero = self.output.bias.new_zeros(batch, self.width)
        return [(zero, zero) for _ in self.layers]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """`inputs` int64 [T, N] -> (features [T, N, width], the state after the last step).

        `output` takes the features to a loss or to probabilities.
        """
        rates = self.dropouts if self.training else Dropouts()
        weight = self.embedding.weight
        if rates.embedding:
            kept = F.dropout(weight.new_ones(len(weight), 1), rates.embedding)
            weight = weight * kept
        x = self._drop(F.embedding(inputs, weight), rates.input)
        after: State = []
        for i, layer in enumerate(self.layers):
            if i:
                x = self._drop(x, rates.hidden)
            x, end = layer(x, state[i], rates.recurrent)
            after.append(end)
        return self._drop(x, rates.output), after

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        """Drop of x [T, N, units], with one mask for all steps where dropout is variational."""
        if not rate:
            return x
        if self.dropouts.variational:
            return x * F.dropout(torch.ones_like(x[:1]), rate)
        return F.dropout(x, rate)


class Layer(nn.Module):
    """One recurrent layer with dropout of h_(t-1)."""

    def __init__(self, core: Core, inputs: int, width: int, bias: bool) -> None:
        super().__init__()
        self.core, self.width = core, width
        if isinstance(core, Cell):
            self.cell: nn.Module = Recurrent(core, inputs, width, bias=bias)
        else:
            built_in = {"lstm": nn.LSTM, "gru": nn.GRU}[core]
            self.cell = built_in(inputs, width, bias=bias)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor], rate: float = 0.0
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`x` [T, N, inputs], state (h, c) [N, width] each -> outputs [T, N, width] and state."""
        h, c = state
        cell = self.cell
        if isinstance(cell, Recurrent):
            if cell.recurrent_dropout != rate:
                cell.recurrent_dropout = rate
            return cell.first(x, h, c)
        if rate:
            return self._gated(x, h, c, F.dropout(torch.ones_like(h), rate))
        if self.core == "gru":
            out, h_n = self.cell(x, h[None])
            return out, (h_n[0], c)
        out, (h_n, c_n) = self.cell(x, (h[None], c[None]))
        return out, (h_n[0], c_n[0])

    def _gated(
        self, x: Tensor, h: Tensor, c: Tensor, mask: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run LSTM or GRU step by step, h_(t-1) times `mask` before its products."""
        assert isinstance(self.cell, nn.RNNBase)
        weight_ih, weight_hh, *biases = self.cell.all_weights[0]
        bias_ih, bias_hh = biases or (None, None)
        outputs = []
        for z_t in F.linear(x, weight_ih, bias_ih):
            v_t = F.linear(h * mask, weight_hh, bias_hh)
            if self.core == "lstm":
                i, f, g, o = (z_t + v_t).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (r_z, u_z, n_z), (r_v, u_v, n_v) = z_t.chunk(3, 1), v_t.chunk(3, 1)
                u = (u_z + u_v).sigmoid()
                n = (n_z + (r_z + r_v).sigmoid() * n_v).tanh()
                h = (1 - u) * n + u * h
            outputs.append(h)
        return torch.stack(outputs), (h, c)
