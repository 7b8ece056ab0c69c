"""How raw PET was taken: tracer, dose and times of frames, as BIDS names them."""

from __future__ import annotations

from dataclasses import dataclass

FRAMES, FRAME_SECONDS = 4, 300
INJECTED_MBQ = 370.0


@dataclass(frozen=True)
class PetTracer:
    """What a scanner's operator writes down of a tracer."""

    name: str
    radionuclide: str
    radiopharmaceutical: str
    uptake_seconds: int
    """From the injection to the first frame."""


TRACERS = {
    "18FAV45": PetTracer("AV45", "F18", "Florbetapir F18", 3000),
    "18FFBB": PetTracer("FBB", "F18", "Florbetaben F18", 5400),
    "11CPIB": PetTracer("PiB", "C11", "Pittsburgh compound B C11", 3000),
    "18FAV1451": PetTracer("AV1451", "F18", "Flortaucipir F18", 4800),
}
"""By BIDS' label; times as ADNI scans."""


def pet_times(tracer: str, frames: int) -> dict[str, list[int]]:
    """When each frame started after the injection and how long it took, seconds, as BIDS names it."""
    first = TRACERS[tracer].uptake_seconds
    return {
        "FrameTimesStart": [first + FRAME_SECONDS * frame for frame in range(frames)],
        "FrameDuration": [FRAME_SECONDS] * frames,
    }


def pet_sidecar(tracer: str, frames: int) -> dict[str, object]:
    """The JSON of a PET image of a tracer; times count from the injection."""
    known, times = TRACERS[tracer], pet_times(tracer, frames)
    return {
        "Modality": "PT",
        "TracerName": known.name,
        "TracerRadionuclide": known.radionuclide,
        "InjectedRadioactivity": INJECTED_MBQ,
        "InjectedRadioactivityUnits": "MBq",
        "ModeOfAdministration": "bolus",
        "TimeZero": "10:00:00",
        "InjectionStart": 0,
        "ScanStart": times["FrameTimesStart"][0],
        **times,
        "ImageDecayCorrected": True,
        "ImageDecayCorrectionTime": times["FrameTimesStart"][0],
        "Units": "Bq/mL",
    }
