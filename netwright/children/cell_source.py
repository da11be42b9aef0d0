"""A language model written out as plain PyTorch, its cell equation by equation."""

from __future__ import annotations

from netwright.children.language import Core, LanguageModel
from netwright.spaces.recurrent import Cell

_HEAD = '''"""A language model {made}, written by Netwright, {parameters:,} parameters.

    net = load("weights.safetensors")
    h = c = torch.zeros(1, {layers}, {width})  # before a text
    log_p, h, c = net(torch.tensor([token]), h, c)  # [1, {vocabulary}]: how likely each is next

A token is a place in the list "vocabulary" of network.json. `Recurrent` is for models of your own.
{about}"""

import torch
import torch.nn.functional as F
from torch import nn
'''

_ABOUT = """
The cell, whose W_i and U_i are the {base} blocks of `width` rows in weight_ih_l0 and weight_hh_l0:

{equations}
"""

_CELL = '''

class Cell(nn.Module):
    """One step, as nn.LSTMCell: x [N, inputs], (h, c) [N, width] each -> (h, c)."""

    def __init__(self, inputs, width, bias={bias}):
        super().__init__()
        rows = {base} * width
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, width))
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows)) if bias else None
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows)) if bias else None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, x, state):
        h, c = state
        w = F.linear(x, self.weight_ih_l0, self.bias_ih_l0).chunk({base}, 1)
        u = F.linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk({base}, 1)
{equations}


class Recurrent(nn.Module):
    """A layer of the cell that takes and returns what nn.LSTM does.

    x [T, N, inputs], (h, c) [1, N, width] each, zeros without it -> [T, N, width], (h, c).
    """

    def __init__(self, inputs, width, bias={bias}):
        super().__init__()
        self.width = width
        self.cell = Cell(inputs, width, bias)

    def forward(self, x, state=None):
        h = c = x.new_zeros(x.shape[1], self.width)
        if state is not None:
            h, c = state[0][0], state[1][0]
        outputs = []
        for x_t in x:
            h, c = self.cell(x_t, (h, c))
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None])
'''

_LSTM = '''

class Recurrent(nn.Module):
    """nn.LSTM of one layer: x [T, N, inputs], (h, c) [1, N, width] -> [T, N, width], (h, c)."""

    def __init__(self, inputs, width, bias={bias}):
        super().__init__()
        self.cell = nn.LSTM(inputs, width, bias=bias)

    def forward(self, x, state=None):
        return self.cell(x, state)
'''

_GRU = '''

class Recurrent(nn.Module):
    """nn.GRU of one layer, with an idle c: x [T, N, inputs], (h, c) [1, N, width] or None."""

    def __init__(self, inputs, width, bias={bias}):
        super().__init__()
        self.cell = nn.GRU(inputs, width, bias=bias)

    def forward(self, x, state=None):
        h, c = (None, None) if state is None else state
        outputs, h = self.cell(x, h)
        return outputs, (h, c)
'''

_SOFTMAX = '''

class Output(nn.Linear):
    """Features [N, units] -> log-probabilities [N, vocabulary]."""

    def forward(self, features):
        return super().forward(features).log_softmax(1)
'''

_ADAPTIVE = '''

class Output(nn.Module):
    """Features [N, units] -> log-probabilities [N, vocabulary], by adaptive softmax.

    Tokens before CUTOFFS[0] and one for each later range share a softmax; each range has its own.
    """

    CUTOFFS = {cutoffs}

    def __init__(self, units, vocabulary):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, units))
        self.bias = nn.Parameter(torch.empty(vocabulary))
        self.ranges = nn.Linear(units, len(self.CUTOFFS) - 1)

    def logits(self, features, low, high):
        return F.linear(features, self.weight[low:high], self.bias[low:high])

    def forward(self, features):
        first = self.CUTOFFS[0]
        head = torch.cat([self.logits(features, 0, first), self.ranges(features)], 1).log_softmax(1)
        parts = [head[:, :first]]
        for k, (low, high) in enumerate(zip(self.CUTOFFS, self.CUTOFFS[1:])):
            inside = self.logits(features, low, high).log_softmax(1)
            parts.append(head[:, first + k : first + k + 1] + inside)
        return torch.cat(parts, 1)
'''

_MODEL = '''

class LanguageModel(nn.Module):
    """Reads one token of each of N texts at a time."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding({vocabulary}, {embedding})
        self.layers = nn.ModuleList([{recurrent}])
        self.output = Output({width}, {vocabulary})
{tie}
    def forward(self, tokens, h, c):
        """Tokens int64 [N], h and c [N, {layers}, {width}] -> log-probabilities and h, c."""
        x = self.embedding(tokens)[None]
        states = []
        for layer, h_i, c_i in zip(self.layers, h.unbind(1), c.unbind(1)):
            x, state = layer(x, (h_i[None].contiguous(), c_i[None].contiguous()))
            states.append(state)
        h, c = (torch.cat(s).transpose(0, 1) for s in zip(*states))
        return self.output(x[0]), h, c


def load(path):
    """Return the network with the weights of a safetensors file, in evaluation mode."""
    from safetensors.torch import load_file

{read}    net = LanguageModel()
    net.load_state_dict({state})
    return net.eval()
'''

_ACTIVATION = {
    "identity": "{}",
    "tanh": "torch.tanh({})",
    "sigmoid": "torch.sigmoid({})",
    "relu": "torch.relu({})",
    "sin": "torch.sin({})",
}
_COMBINATION = {"add": "{} + {}", "elem_mult": "{} * {}", "max": "torch.maximum({}, {})"}


def language_source(model: LanguageModel) -> str:
    """Return the source of a module that equals `netwright.tasks.language_network.Predictor`.

    Its function `load` takes the safetensors file of a network's folder.
    """
    settings, core = model.settings, model.core
    vocabulary, embedding = model.embedding.weight.shape
    sizes = {"vocabulary": vocabulary, "width": model.width, "layers": settings.layers}
    inputs = [embedding, *[model.width] * (settings.layers - 1)]
    state, tie = "load_file(path)", ""
    if settings.shared:
        state = 'state | {"output.weight": state["embedding.weight"]}'
        tie = "        self.output.weight = self.embedding.weight\n"
    output = _SOFTMAX
    if settings.cutoffs:
        output = _ADAPTIVE.format(cutoffs=(*settings.cutoffs, vocabulary))
    head = _HEAD.format(
        made="with a recurrent cell" if isinstance(core, Cell) else f"with nn.{core.upper()}",
        parameters=sum(p.numel() for p in model.parameters()),
        about=_about(core),
        **sizes,
    )
    network = _MODEL.format(
        embedding=embedding,
        recurrent=", ".join(f"Recurrent({n}, {model.width})" for n in inputs),
        tie=tie,
        read="    state = load_file(path)\n" if settings.shared else "",
        state=state,
        **sizes,
    )
    return head + _layer(core, settings.bias) + output + network


def _about(core: Core) -> str:
    if not isinstance(core, Cell):
        return ""
    equations = "\n".join(f"    {line}" for line in core.equations())
    return _ABOUT.format(base=core.base, equations=equations)


def _layer(core: Core, bias: bool) -> str:
    if not isinstance(core, Cell):
        return {"lstm": _LSTM, "gru": _GRU}[core].format(bias=bias)
    equations = "\n".join(f"        {line}" for line in _step(core))
    return _CELL.format(base=core.base, bias=bias, equations=equations)


def _step(cell: Cell) -> list[str]:
    """Return the lines from w, u (the leaves' products) and c to the new h and c."""
    lines = []
    for i, (combine, activation) in enumerate(cell.nodes):
        below = cell.children(i)
        operands = [f"n{child}" for child in below] if below else [f"w[{i}]", f"u[{i}]"]
        value = _COMBINATION[combine].format(*operands)
        if i == cell.c_from:
            lines.append(f"c_next = {value}")
            value = "c_next"
        lines.append(f"n{i} = {_ACTIVATION[activation].format(value)}")
        if i == cell.c_into:
            combine, activation = cell.inject
            injected = _COMBINATION[combine].format(f"n{i}", "c")
            lines.append(f"n{i} = {_ACTIVATION[activation].format(injected)}")
    return [*lines, f"return n{len(cell.nodes) - 1}, c_next"]
