"""What several takers send added up, and pooling: passes over memory for compiled code.

What the arguments are: `netwright.children.passes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netwright.children.compiled import carray, held_as, jit, part, pointer, wide
from netwright.children.lanes import picked, summed
from netwright.children.team import array, share, takers_of


@part
def dense(takers: Any, channels: int, height: int, width: int) -> Any:
    """Whether every taker's numbers are all adjacent."""
    row, found = width * channels, True
    for k in range(takers.shape[0]):
        found &= takers[k, 3] == channels
        found &= takers[k, 2] == row and takers[k, 1] == height * row
    return found


@part
def added_rows(
    takers: Any, like: Any, first: int, rows: int, height: int, width: int, to: Any
) -> None:
    """to[:rows * C] = the sum of what the takers send to pixels first .. first + rows."""
    many, channels, size = takers.shape[0], like.shape[1], like.itemsize
    places, steps = np.empty(many, np.int64), np.empty(many, np.int64)
    if dense(takers, channels, height, width):  # all pixels are as one
        for k in range(many):
            places[k] = takers[k, 0] + first * channels * size
        summed(places, steps, like, 1, to[: rows * channels].reshape(1, rows * channels))
        return
    through = True
    for k in range(many):
        steps[k] = takers[k, 3] * size
        through &= takers[k, 2] == width * takers[k, 3] and takers[k, 1] == height * takers[k, 2]
    done = 0
    while done < rows:  # up to the end of a row of the image, where there is more behind it
        y, x = (first + done) // width, (first + done) % width
        n = rows if through else min(rows - done, width - x)
        for k in range(many):
            start = (y // height) * takers[k, 1] + (y % height) * takers[k, 2] + x * takers[k, 3]
            places[k] = takers[k, 0] + start * size
        target = to[done * channels : (done + n) * channels].reshape(n, channels)
        summed(places, steps, like, n, target)
        done += n


@jit
def added(
    like: Any,
    g: int,
    m: int,
    channels: int,
    takers: int,
    count: int,
    height: int,
    width: int,
    team: Any,
) -> None:
    """g = the sum of what the takers send; [M, C]."""
    whole = array(g, (m, channels), like)
    first, last = share(team, m)
    target = whole.reshape(-1)[first * channels : last * channels]
    added_rows(takers_of(takers, count), whole, first, last - first, height, width, target)


@jit
def pooled(
    like: Any,
    x: int,
    pixels: int,
    channels: int,
    height: int,
    width: int,
    y: int,
    place: int,
    team: Any,
) -> None:
    """y = the largest of each 2x2 of x, the first of equals; place: which of the four, uint8.

    [N, H, W, C] -> [N, H / 2, W / 2, C], rounded up.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    images = pixels // (height * width)
    source = array(x, (images, height, width, channels), like)
    targets = array(y, (images, rows, columns, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    begin, end = share(team, images)
    for n in range(begin, end):
        for i in range(rows):
            top, below = source[n, 2 * i], source[n, min(2 * i + 1, height - 1)]
            target, places = targets[n, i], all_places[n, i]
            for j in range(columns):
                left, right = 2 * j, min(2 * j + 1, width - 1)
                for c in range(channels):
                    best, at = wide(top[left, c]), np.uint8(0)
                    v = wide(top[right, c])
                    at, best = (np.uint8(1), v) if v > best or v != v else (at, best)
                    v = wide(below[left, c])
                    at, best = (np.uint8(2), v) if v > best or v != v else (at, best)
                    v = wide(below[right, c])
                    at, best = (np.uint8(3), v) if v > best or v != v else (at, best)
                    target[j, c] = held_as(target, best)
                    places[j, c] = at


@jit
def unpooled(
    like: Any,
    g: int,
    pixels: int,
    channels: int,
    height: int,
    width: int,
    place: int,
    takers: int,
    count: int,
    team: Any,
) -> None:
    """Undo `pooled`: g [N, H, W, C] has what the takers send where `place` says, 0 elsewhere."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    images = pixels // (height * width)
    given = takers_of(takers, count)
    whole = array(g, (images, height, width, channels), like)
    all_places = carray(pointer(place), (images, rows, columns, channels), np.uint8)
    sent = np.empty(columns * channels, np.float32)
    d = sent.reshape(columns, channels)
    flat = whole.reshape(-1, channels)
    begin, end = share(team, images)
    for n in range(begin, end):
        for i in range(rows):
            added_rows(given, flat, (n * rows + i) * columns, columns, rows, columns, sent)
            for k in range(min(2, height - 2 * i)):
                target, places = whole[n, 2 * i + k].reshape(-1), all_places[n, i]
                picked(d, places, 2 * k, target, 2 * channels)
                beside = width // 2
                picked(d[:beside], places, 2 * k + 1, target[channels:], 2 * channels)
