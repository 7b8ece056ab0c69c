"""Which device a training gets, and what happens when a GPU is absent, unusable, full or lost."""

from __future__ import annotations

import logging

import pytest
import torch

from permmoe.encoder_kinds import ENCODERS
from permmoe.errors import ConfigurationError, DeviceUnusable
from permmoe.runtime.device_errors import device_notes, in_words, is_device_failure, ran_out_of_memory
from permmoe.runtime.devices import on_device, training_device
from tests.support.pretended_gpu import pretend_gpus

LOST = torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA`")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
OLD = "The NVIDIA driver on your system is too old (found version 11040)."
NONE = "Found no NVIDIA driver on your system."


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("name", "device"), [("pooled", "cpu"), ("cnn", "cuda"), ("sfcn", "cuda")])
def test_auto_takes_the_gpu_for_encoders_that_are_faster_there(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = ENCODERS[name].gains_from_gpu
    assert training_device("auto", gains_from_gpu=gains) == "cpu"
    pretend_gpus(monkeypatch)
    assert training_device("auto", gains_from_gpu=gains) == device


def test_a_device_that_is_named_is_taken_whatever_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, count=2)
    assert training_device("cuda:1", gains_from_gpu=False) == "cuda:1"
    assert training_device("cpu", gains_from_gpu=True) == "cpu"


def test_auto_says_why_the_gpu_that_is_there_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_gpus(monkeypatch).error = RuntimeError("CUDA error: no kernel image is available for execution")
    assert training_device("auto") == "cpu"
    [line] = caplog.messages
    assert "no code for it" in line and "the CPU takes its place" in line


def test_a_gpu_that_is_named_and_absent_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        DeviceUnusable, match=r"device cuda: this build of PyTorch is for CPUs alone; .*use cpu or auto"
    ):
        training_device("cuda")
    pretend_gpus(monkeypatch, count=0)
    for text, reason in ((OLD, "driver is too old"), (NONE, "no NVIDIA driver"), ("?", "PyTorch sees no GPU")):
        monkeypatch.setattr(torch.cuda, "init", lambda text=text: failing(RuntimeError(text)))
        with pytest.raises(DeviceUnusable, match=reason):
            training_device("cuda:0")
    pretend_gpus(monkeypatch, count=2)
    with pytest.raises(DeviceUnusable, match=r"device cuda:2: PyTorch sees 2 GPU\(s\), the last of them cuda:1"):
        training_device("cuda:2")


def test_a_gpu_that_is_named_and_full_or_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = pretend_gpus(monkeypatch)
    gpus.error = FULL
    with pytest.raises(DeviceUnusable, match="its memory is full"):
        training_device("cuda")
    monkeypatch.setattr("permmoe.runtime.devices.computes_on", lambda device: False)
    with pytest.raises(DeviceUnusable, match="it computes wrongly"):
        training_device("cuda")


def test_what_is_no_device_is_refused_as_a_setting() -> None:
    with pytest.raises(ConfigurationError, match="'abacus' is not a device"):
        training_device("abacus")


@pytest.mark.parametrize(
    ("error", "is_failure", "is_memory"),
    [
        (LOST, True, False),
        (FULL, True, True),
        (RuntimeError("CUDA error: out of memory"), True, True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, False),
        (DeviceUnusable("gone"), True, False),
        (RuntimeError("shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error"), False, False),
        (FloatingPointError("the training loss became nan"), False, False),
    ],
)
def test_a_gpus_failures_are_told_from_mistakes(error: Exception, is_failure: bool, is_memory: bool) -> None:
    assert (is_device_failure(error), ran_out_of_memory(error)) == (is_failure, is_memory)


def test_words_about_a_failure_name_no_file() -> None:
    assert in_words(LOST) == "it failed (CUDA error: unspecified launch failure)"
    for text in ("cuDNN error at /data/phi/patient-12345", "CUDA error: /home/clinic/libcuda.so is of another version"):
        assert in_words(RuntimeError(text)) == "it failed"


@pytest.mark.parametrize("error", [LOST, FULL, DeviceUnusable("round 2: gone")])
def test_work_begins_anew_on_the_cpu_where_it_may(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    def work(device: str) -> int:
        tried.append(device)
        return 7 if device == "cpu" else failing(error)

    with device_notes() as notes:
        assert on_device("cuda:1", work, falls_back=True) == 7
    assert tried == ["cuda:1", "cpu"]
    assert notes == caplog.messages and len(notes) == 1 and "the CPU takes its place" in notes[0]
    tried.clear()
    with pytest.raises(DeviceUnusable) as refused:
        on_device("cuda:1", work, falls_back=False)
    assert tried == ["cuda:1"] and in_words(error).removeprefix("it ") in str(refused.value)


def test_a_mistake_is_raised_as_it_is_and_nothing_begins_anew() -> None:
    for device, error in (("cuda", RuntimeError("shapes")), ("cuda", ValueError("x")), ("cpu", LOST)):
        with pytest.raises(type(error)) as raised:
            on_device(device, lambda on, error=error: failing(error), falls_back=True)
        assert raised.value is error


def test_notes_end_with_their_block() -> None:
    with device_notes() as notes:
        pass
    logging.getLogger("permmoe.device").warning("later")
    assert notes == []
