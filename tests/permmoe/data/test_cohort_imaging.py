"""The synthetic cohort's voxels: the same brain on every grid, and every modality shows its own latent."""

from dataclasses import replace

import numpy as np
import pytest

from permmoe.config import VolumeGrid
from permmoe.data.cohort import CohortConfig, Subject, draw_subjects
from permmoe.data.cohort.anatomy import CHANNELS, Anatomy, grid_axes, load_anatomy
from permmoe.data.cohort.fields import draw_coefficients, separable, spline_bases
from permmoe.data.cohort.imaging import render
from permmoe.data.cohort.regions import BRAINSTEM, CEREBELLUM, HIPPOCAMPUS, membership
from permmoe.data.cohort.scanners import Scanner, site_scanner
from permmoe.data.cohort.settings import MODALITIES
from permmoe.errors import DataError

COARSE, FINE = VolumeGrid(), VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return load_anatomy(COARSE)


@pytest.fixture(scope="module")
def people() -> tuple[Subject, ...]:
    return draw_subjects(CohortConfig(subjects=60, all_modalities=True))


def average(volume: np.ndarray, anatomy: Anatomy, channel: str) -> float:
    """Mean of an image over a region of the template."""
    weights = anatomy.channels[:, CHANNELS.index(channel)] * anatomy.brain.reshape(-1)
    return float(np.average(volume.reshape(-1), weights=weights))


def one_scanner() -> Scanner:
    return site_scanner(0, "011", 0.0)


def test_the_two_millimetre_grid_is_the_standard_one() -> None:
    origins = [axis[0] for axis in grid_axes(FINE)]
    assert origins == [-90, -126, -72]


def test_a_random_field_is_the_same_at_points_that_two_grids_share() -> None:
    coefficients = draw_coefficients(np.random.default_rng(3), 28.0)
    coarse = np.arange(-60.0, 61, 6), np.arange(-90.0, 50, 4), np.arange(-40.0, 80, 10)
    fine = np.arange(-60.0, 61, 2), np.arange(-90.0, 50, 2), np.arange(-40.0, 80, 5)
    on_coarse = separable(coefficients, spline_bases(coarse, 28.0))
    on_fine = separable(coefficients, spline_bases(fine, 28.0))
    np.testing.assert_allclose(on_fine[::3, ::2, ::2], on_coarse, atol=1e-5)


def test_a_random_field_has_unit_variance_and_no_seams() -> None:
    axes = np.arange(-80.0, 81, 2), np.arange(-110.0, 71, 2), np.arange(-60.0, 91, 2)
    bases = spline_bases(axes, 11.0)
    field = separable(draw_coefficients(np.random.default_rng(5), 11.0), bases)
    assert field.std() == pytest.approx(1.0, abs=0.05)
    assert np.abs(np.diff(field, axis=0)).max() < 1.5
    for basis in bases:
        np.testing.assert_allclose(basis.sum(1), 1.0, atol=1e-5)


def test_separable_matches_the_sum_written_out() -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal((3, 5, 7)).astype(np.float32)
    matrices = tuple(rng.standard_normal((n, m)).astype(np.float32) for n, m in ((11, 3), (13, 5), (2, 7)))
    expected = np.einsum("ijk,xi,yj,zk->xyz", values, *matrices)
    np.testing.assert_allclose(separable(values, matrices), expected, rtol=1e-4, atol=1e-4)


def test_regions_are_symmetric_and_where_they_are_said_to_be() -> None:
    points = np.array([[26, -14, -20], [-26, -14, -20], [0, 60, 60]], float)
    inside = membership(points, HIPPOCAMPUS)
    assert inside[0] == inside[1] > 0.9
    assert inside[2] < 1e-6
    assert membership(np.array([[22.0, -64, -38]]), CEREBELLUM)[0] > 0.9
    assert membership(np.array([[22.0, -64, -38]]), BRAINSTEM)[0] < 0.1


def test_both_grids_show_a_brain_of_the_same_volume_and_place(anatomy: Anatomy) -> None:
    fine = load_anatomy(FINE)
    millilitres = [a.brain.sum() * a.grid.spacing_mm**3 / 1000 for a in (anatomy, fine)]
    assert millilitres[0] == pytest.approx(millilitres[1], rel=0.02)
    assert 1600 < millilitres[0] < 2100
    for channel in range(len(CHANNELS)):
        weights = [a.channels[:, channel] * a.brain.reshape(-1) for a in (anatomy, fine)]
        volumes = [w.sum() * a.grid.spacing_mm**3 for w, a in zip(weights, (anatomy, fine), strict=True)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.1), CHANNELS[channel]


def test_a_subject_is_the_same_person_on_both_grids(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    """Blurred to a common resolution, one subject's two images agree far better than two subjects' do."""
    fine = load_anatomy(FINE)

    def blocks(volume: np.ndarray, on: Anatomy) -> np.ndarray:
        x, y, z = on.axes_mm
        bins = [np.floor((axis + 200) / 16).astype(int) for axis in (x, y, z)]
        index = np.ravel_multi_index(np.meshgrid(*bins, indexing="ij"), (25, 25, 25))
        total = np.bincount(index.ravel(), volume.ravel(), 25**3)
        return total / np.maximum(np.bincount(index.ravel(), on.brain.ravel(), 25**3), 1)

    means = {
        (i, on.grid.spacing_mm): blocks(render(people[i], one_scanner(), on, 0, ["t1"])["t1"], on)
        for i in (0, 1)
        for on in (anatomy, fine)
    }
    whole = np.bincount(
        np.ravel_multi_index(
            np.meshgrid(*[np.floor((a + 200) / 16).astype(int) for a in anatomy.axes_mm], indexing="ij"), (25, 25, 25)
        ).ravel(),
        anatomy.brain.ravel(),
        25**3,
    ) > 50  # fmt: skip
    template = (means[0, 4.0] + means[1, 4.0])[whole]

    def residual(i: int, spacing: float) -> np.ndarray:
        values = means[i, spacing][whole]
        return values / values.mean() - template / template.mean()

    same = np.corrcoef(residual(0, 4.0), residual(0, 2.0))[0, 1]
    different = np.corrcoef(residual(0, 4.0), residual(1, 2.0))[0, 1]
    assert same > 0.6
    assert different < same - 0.5


def test_images_are_finite_positive_and_zero_outside_the_brain(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    images = render(people[0], site_scanner(0, "023", 1.0), anatomy, 0, MODALITIES)
    assert tuple(images) == MODALITIES
    for volume in images.values():
        assert volume.shape == COARSE.shape
        assert np.isfinite(volume).all()
        assert (volume >= 0).all()
        assert (volume[~anatomy.brain] == 0).all()
        assert (volume[anatomy.brain] > 0).mean() > 0.99


def test_pet_is_in_units_of_the_cerebellum(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    images = render(people[0], one_scanner(), anatomy, 0, ["amyloid", "tau"])
    for volume in images.values():
        assert average(volume, anatomy, "cerebellum") == pytest.approx(1.0, abs=0.1)


def test_a_modality_looks_the_same_whatever_else_is_rendered(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    together = render(people[2], one_scanner(), anatomy, 0, MODALITIES)
    for name in MODALITIES:
        alone = render(people[2], one_scanner(), anatomy, 0, [name])[name]
        np.testing.assert_array_equal(alone, together[name])


def test_each_modality_shows_its_own_latent(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    """Over subjects and with one scanner, a simple measure follows the latent that the modality is there for."""
    shown: dict[str, list[float]] = {name: [] for name in ("t1", "flair", "amyloid", "tau")}
    for subject in people:
        images = render(subject, one_scanner(), anatomy, 0, MODALITIES)
        flair = images["flair"][anatomy.brain]
        shown["t1"].append(average(images["t1"], anatomy, "hippocampus") / average(images["t1"], anatomy, "white"))
        shown["flair"].append(float(np.log(0.002 + (flair > 1.35 * np.median(flair)).mean())))
        shown["amyloid"].append(average(images["amyloid"], anatomy, "amyloid"))
        shown["tau"].append(
            average(images["tau"], anatomy, "braak_i_ii") + average(images["tau"], anatomy, "braak_iii_iv")
        )

    def correlation(name: str, latent: list[float]) -> float:
        return float(np.corrcoef(shown[name], latent)[0, 1])

    atrophy = [s.latents.neurodegeneration + s.latents.hippocampal_loss for s in people]
    assert correlation("t1", atrophy) < -0.8
    assert correlation("flair", [s.latents.vascular for s in people]) > 0.6
    assert correlation("amyloid", [s.latents.amyloid for s in people]) > 0.9
    assert correlation("tau", [s.latents.tau for s in people]) > 0.8


@pytest.mark.parametrize(
    ("latent", "modality", "channel", "is_brighter"),
    [
        ("amyloid", "amyloid", "amyloid", True),
        ("tau", "tau", "braak_i_ii", True),
        ("vascular", "flair", "periventricular", True),
        ("hippocampal_loss", "t1", "hippocampus", False),
        ("neurodegeneration", "t1", "atrophy", False),
    ],
)
def test_raising_one_latent_of_one_subject_changes_its_region(
    anatomy: Anatomy, people: tuple[Subject, ...], latent: str, modality: str, channel: str, is_brighter: bool
) -> None:
    subject = people[4]
    well = replace(subject, latents=replace(subject.latents, **{latent: 0.0}))
    ill = replace(subject, latents=replace(subject.latents, **{latent: 1.2}))
    before, after = (render(s, one_scanner(), anatomy, 0, [modality])[modality] for s in (well, ill))  # type: ignore[list-item]
    change = average(after, anatomy, channel) / average(before, anatomy, channel) - 1
    assert (change if is_brighter else -change) > 0.04


@pytest.mark.parametrize("latent", ["amyloid", "vascular"])
def test_a_latent_of_one_modality_is_invisible_to_the_others(
    anatomy: Anatomy, people: tuple[Subject, ...], latent: str
) -> None:
    subject = people[4]
    changed = replace(subject, latents=replace(subject.latents, **{latent: 1.5}))
    before, after = (render(s, one_scanner(), anatomy, 0, MODALITIES) for s in (subject, changed))
    seen_by = {"amyloid": "amyloid", "vascular": "flair"}[latent]
    for name in MODALITIES:
        assert np.array_equal(before[name], after[name]) == (name != seen_by)


def test_without_site_shift_all_scanners_are_one_and_with_it_none_are_alike() -> None:
    def described(shift: float) -> set[tuple[object, ...]]:
        codes = ("011", "023", "037")
        scanners = [site_scanner(0, code, shift) for code in codes]
        return {(s.mri_gain, s.apparent_amyloid, s.pet_fwhm_mm, float(np.abs(s.t1_shading).max())) for s in scanners}

    assert len(described(0.0)) == 1
    assert len(described(1.0)) == 3


def test_site_shift_pulls_sites_apart(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    """The same person scanned at five sites: the spread of cortical uptake grows with the shift."""

    def spread(shift: float) -> float:
        scanners = [site_scanner(0, code, shift) for code in ("011", "023", "037", "041", "067")]
        images = [render(people[0], s, anatomy, 0, ["amyloid"])["amyloid"] for s in scanners]
        return float(np.std([average(image, anatomy, "amyloid") for image in images]))

    assert spread(0.0) == 0.0
    assert 0.0 < spread(0.3) < spread(1.0)


def test_no_scanner_shows_fluid_on_flair_as_bright_as_brain(anatomy: Anatomy, people: tuple[Subject, ...]) -> None:
    """The scanner of the largest contrast that a cohort may have."""
    scanner = replace(one_scanner(), mri_contrast=float(np.exp(0.2 * 1.5 * 3)), mri_noise=0.0)
    image = render(people[0], scanner, anatomy, 0, ["flair"])["flair"]
    assert np.isfinite(image).all() and image.max() < 10 * np.median(image[anatomy.brain])
    assert average(image, anatomy, "ventricles") < average(image, anatomy, "grey")


def test_a_grid_that_misses_the_brain_is_refused() -> None:
    with pytest.raises(DataError, match="does not cover the brain"):
        load_anatomy(VolumeGrid(shape=(3, 5, 7), spacing_mm=1.0))
