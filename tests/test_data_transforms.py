"""Whitening and augmentation: what a network's input goes through."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from netwright.data import transforms
from netwright.data.images import DataSettings, ImageSet, Pipeline, Preprocess, load_search_data
from netwright.errors import DataError


def images_of(count: int, channels: int = 3, side: int = 6, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    pixels = torch.randint(256, shape, generator=generator).to(torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3)


def pipeline(data: ImageSet, **values: object) -> Pipeline:
    chosen = DataSettings(**values)  # type: ignore[arg-type]
    return Pipeline(data, Preprocess.fit(data, chosen), chosen)


def epoch(pipe: Pipeline, seed: int, batch: int = 8) -> tuple[Tensor, Tensor]:
    batches = list(pipe.train_batches(batch, torch.Generator().manual_seed(seed)))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def all_eval(pipe: Pipeline, batch: int = 512) -> Tensor:
    return torch.cat([images for images, _ in pipe.eval_batches(batch)])


def only(images: Tensor, wanted: Tensor) -> int:
    """The one index at which `images` holds `wanted`."""
    same = (images == wanted).flatten(1).all(1).nonzero().flatten().tolist()
    assert len(same) == 1, same
    return int(same[0])


# --- whitening ----------------------------------------------------------------------------------


def test_channel_whitening_gives_training_images_mean_0_and_deviation_1() -> None:
    data = images_of(200)
    data.images[:, 1] //= 4
    white = all_eval(pipeline(data))
    assert white.dtype == torch.float32
    assert white.mean((0, 2, 3)).abs().max() < 1e-5
    assert (white.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_channel_statistics_are_those_of_the_pixels() -> None:
    data = images_of(50)
    mean, deviation = transforms.channel_statistics(data.images)
    pixels = data.images.double() / 255
    assert torch.allclose(mean, pixels.mean((0, 2, 3)), atol=1e-12)
    assert torch.allclose(deviation, pixels.std((0, 2, 3), correction=0), atol=1e-12)


def test_a_channel_of_one_value_whitens_to_zeros_and_not_to_nan() -> None:
    data = ImageSet(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    assert all_eval(pipeline(data)).abs().max() < 0.1


@pytest.mark.parametrize("whiten", ["channel", "zca"])
def test_whitening_of_other_images_uses_training_statistics_only(whiten: str) -> None:
    train, other = images_of(64, 1, 3), images_of(64, 1, 3, seed=1)
    other.images.floor_divide_(3)
    chosen = DataSettings(whiten=whiten)
    fitted = Preprocess.fit(train, chosen)
    white = all_eval(Pipeline(other, fitted, chosen))
    assert white.mean() < -0.5
    assert torch.allclose(white, fitted(other.images.float() / 255), atol=1e-6)


def test_zca_makes_the_covariance_of_pixels_close_to_the_identity() -> None:
    data = images_of(4000, 2, 3)
    data.images[:] = (data.images > 127) * 255
    data.images[:, :, :, 1] = data.images[:, :, :, 0] // 2 + data.images[:, :, :, 1] // 2
    raw = data.images.flatten(1).double().T / 255
    assert (torch.cov(raw).fill_diagonal_(0)).abs().max() > 0.1
    covariance = torch.cov(all_eval(pipeline(data, whiten="zca")).flatten(1).double().T)
    assert (covariance - torch.eye(18)).abs().max() < 0.25
    loss = torch.linalg.eigvalsh(torch.cov(raw, correction=0))
    expected = loss / (loss + 0.01)
    got = torch.linalg.eigvalsh(covariance * (3999 / 4000))
    assert torch.allclose(got, expected, atol=1e-4)


def test_zca_keeps_an_image_recognisable_where_pca_would_turn_it() -> None:
    _, matrix = transforms.zca_statistics(images_of(500, 1, 4).images, chunk=64)
    assert torch.allclose(matrix, matrix.T)
    assert (matrix.diagonal() > matrix.clone().fill_diagonal_(0).abs().max() * 2).all()


def test_no_whitening_leaves_images_in_0_to_1() -> None:
    data = images_of(10)
    assert torch.equal(all_eval(pipeline(data, whiten="none")), data.images.float() / 255)


def test_whitening_in_chunks_is_whitening_at_once() -> None:
    data = images_of(1500, 1, 4)
    pipe = pipeline(data, whiten="zca")
    whole = pipe.preprocess(data.images.float() / 255)
    assert torch.allclose(all_eval(pipe), whole, atol=1e-5)


@pytest.mark.parametrize("whiten", ["channel", "zca", "none"])
def test_preprocess_is_restored_from_its_state(whiten: str) -> None:
    data = images_of(20)
    fitted = Preprocess.fit(data, DataSettings(whiten=whiten, upsample=8))
    again = Preprocess(data.shape, whiten, 8)
    again.load_state_dict(fitted.state_dict())
    inputs = data.images.float() / 255
    assert torch.equal(again(inputs), fitted(inputs))
    assert torch.equal(pickle.loads(pickle.dumps(fitted))(inputs), fitted(inputs))


def test_upsampling_preprocess_shows_the_middle_at_the_training_scale() -> None:
    data = images_of(5, 1, 8)
    fitted = Preprocess.fit(data, DataSettings(upsample=12))
    inputs = data.images.float() / 255
    larger = torch.nn.functional.interpolate(
        fitted.whitened(inputs), size=(12, 12), mode="bilinear", align_corners=False
    )
    assert fitted(inputs).shape == inputs.shape
    assert torch.allclose(fitted(inputs), larger[:, :, 2:10, 2:10], atol=1e-6)


@pytest.mark.parametrize(("shape", "upsample"), [((1, 8, 8), 8), ((1, 6, 8), 12)])
def test_an_upsample_that_does_not_suit_the_images_is_refused(
    shape: tuple[int, int, int], upsample: int
) -> None:
    with pytest.raises(DataError, match=r"^data\.upsample must exceed .* for (8|6)x8 pixels"):
        Preprocess(shape, upsample=upsample)


def test_images_too_large_for_zca_are_refused_before_memory_is_asked_for() -> None:
    says = r"zca must have .*; got 786432, 3 x 512 x 512; use --set data\.whiten=channel or .*=64$"
    with pytest.raises(DataError, match=says):
        Preprocess((3, 512, 512), "zca")
    Preprocess((3, 512, 512))


# --- augmentation -------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    count=st.integers(1, 5),
    channels=st.integers(1, 3),
    sides=st.tuples(*[st.integers(1, 6)] * 4),
    seed=st.integers(0, 2**32),
)
def test_random_crops_are_true_windows_of_their_own_image(
    count: int, channels: int, sides: tuple[int, int, int, int], seed: int
) -> None:
    (height, more), (width, wider) = sides[:2], sides[2:]
    full = (count, channels, height + more - 1, width + wider - 1)
    images = torch.arange(torch.Size(full).numel()).reshape(full).float()  # no value twice
    got = transforms.random_crop(images, height, width, torch.Generator().manual_seed(seed))
    assert got.shape == (count, channels, height, width)
    for image, window in zip(images, got, strict=True):
        top, left = (image[0] == window[0, 0, 0]).nonzero()[0].tolist()
        assert torch.equal(window, image[:, top : top + height, left : left + width])


def test_random_crops_reach_every_place_about_equally_often() -> None:
    images = torch.arange(9.0).reshape(1, 1, 3, 3).expand(9000, 1, 3, 3)
    got = transforms.random_crop(images, 1, 1, torch.Generator().manual_seed(0))
    assert got.flatten().long().bincount().tolist() == pytest.approx([1000] * 9, abs=150)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32))
def test_random_flips_are_the_image_or_its_mirror(
    count: int, channels: int, width: int, seed: int
) -> None:
    images = torch.arange(count * channels * 2 * width).reshape(count, channels, 2, width).float()
    got = transforms.random_flip(images, torch.Generator().manual_seed(seed))
    for image, result in zip(images, got, strict=True):
        assert torch.equal(result, image) or torch.equal(result, image.flip(2))


def test_random_flips_are_about_half() -> None:
    images = torch.tensor([0.0, 1.0]).expand(4000, 1, 1, 2)
    got = transforms.random_flip(images, torch.Generator().manual_seed(0))
    assert 1850 < int(got[:, 0, 0, 0].sum()) < 2150


def test_padded_crops_are_the_image_moved_with_zeros_behind_it() -> None:
    data = images_of(40)
    pipe = pipeline(data, pad=2)
    padded = torch.nn.functional.pad(pipe.images, (2, 2, 2, 2))
    windows = padded.unfold(2, 6, 1).unfold(3, 6, 1)
    moved = 0
    for image in epoch(pipe, 1)[0]:
        same = (windows == image[None, :, None, None]).all(dim=(1, 4, 5)).nonzero()
        assert len(same) == 1
        moved += same[0, 1:].tolist() != [2, 2]
    assert moved > 30


def test_flips_are_in_training_batches_when_asked_for_and_only_then() -> None:
    for flip in (True, False):
        pipe = pipeline(images_of(40), flip=flip)
        both = torch.cat([pipe.images, pipe.images.flip(3)])
        found = [only(both, image) for image in epoch(pipe, 1)[0]]
        assert sorted(place % 40 for place in found) == list(range(40))
        assert any(place >= 40 for place in found) == flip


def test_upsampled_crops_are_windows_of_the_larger_image() -> None:
    data = images_of(20)
    pipe = pipeline(data, upsample=9)
    windows = transforms.enlarge(pipe.images, 9).unfold(2, 6, 1).unfold(3, 6, 1)
    places = set()
    for image in epoch(pipe, 1)[0]:
        near = (windows - image[None, :, None, None]).abs().amax(dim=(1, 4, 5))
        assert near.min() < 1e-5
        places.add(tuple(divmod(int(near.amin(0).argmin()), 4)))
    assert len(places) > 5


@pytest.mark.parametrize("values", [{}, {"pad": 1}, {"upsample": 8}, {"flip": True}])
def test_batches_have_the_shape_of_the_input_and_every_image_once(
    values: dict[str, object],
) -> None:
    pipe = pipeline(images_of(30), **values)
    batches = list(pipe.train_batches(8, torch.Generator().manual_seed(0)))
    assert [x.shape for x, _ in batches] == [(8, 3, 6, 6)] * 3 + [(6, 3, 6, 6)]
    assert torch.cat([y for _, y in batches]).bincount().tolist() == [10, 10, 10]


def test_without_augmentation_batches_are_the_whitened_images_with_their_labels() -> None:
    data = images_of(20)
    pipe = pipeline(data)
    images, labels = epoch(pipe, 0)
    found = [only(pipe.images, image) for image in images]
    assert sorted(found) == list(range(20))
    assert found != list(range(20))
    assert labels.tolist() == data.labels[torch.tensor(found)].tolist()


def test_a_last_batch_of_one_image_is_dropped_and_a_batch_size_of_one_is_not() -> None:
    pipe = pipeline(images_of(17))
    generator = torch.Generator().manual_seed(0)
    assert [len(y) for _, y in pipe.train_batches(8, generator)] == [8, 8]
    assert [len(y) for _, y in pipe.train_batches(1, generator)] == [1] * 17


def test_an_epoch_is_the_generators_alone() -> None:
    pipe = pipeline(images_of(30), pad=2, flip=True)
    one, again, other = epoch(pipe, 4), epoch(pipe, 4), epoch(pipe, 5)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.cat([x for x, _ in pipe.train_batches(8, generator)]) for _ in "ab")
    assert torch.equal(first, one[0])
    assert not torch.equal(second, first)


def test_evaluation_is_in_order_without_augmentation_at_any_batch() -> None:
    data = images_of(21)
    pipe = pipeline(data, upsample=8, flip=True)
    whole = pipe.preprocess(data.images.float() / 255)
    for batch in (1, 4, 512):
        assert torch.allclose(all_eval(pipe, batch), whole, atol=1e-5)
    labels = torch.cat([y for _, y in pipe.eval_batches(4)])
    assert torch.equal(labels, data.labels)
    before = pipe.images.clone()
    epoch(pipe, 0)
    assert torch.equal(pipe.images, before)


def test_the_digits_go_from_source_to_batches() -> None:
    chosen = DataSettings(validation=0.25, pad=1)
    data = load_search_data(chosen, 0)
    fitted = Preprocess.fit(data.train, chosen)
    train = Pipeline(data.train, fitted, chosen)
    assert train.images.mean().abs() < 1e-5
    valid = all_eval(Pipeline(data.valid, fitted, chosen))
    assert valid.shape == (len(data.valid), 1, 8, 8)
    assert 0 < valid.mean().abs() < 0.1
