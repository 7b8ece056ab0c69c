"""The site's own log has the whole reason of a failure, and neither a subject nor a file of data."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.audit import AuditError
from permmoe.federated.records import MalformedRecord
from permmoe_client.own_log import reason
from permmoe_client.participation.query_order import QueryRefused
from permmoe_client.site import SiteConfig, read_site
from tests.support.tiny_federation import write_site

SUBJECT = "patient-12345"


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return read_site(write_site(tmp_path, "north"))


def said(error: Exception, site: SiteConfig | None) -> str:
    try:
        raise error
    except Exception as raised:
        return reason(raised, site)


def disk_full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_is_named_by_its_reason_and_its_setting(site: SiteConfig) -> None:
    line = said(disk_full(site.cache / SUBJECT / "t1.nii"), site)
    assert "OSError in test_own_log.py" in line and "No space left on device" in line and "'cache'" in line
    assert SUBJECT not in line and str(site.cache) not in line


@pytest.mark.parametrize("known", [True, False])
def test_an_error_of_a_file_that_no_setting_names_says_its_reason_alone(known: bool, site: SiteConfig) -> None:
    line = said(PermissionError(errno.EACCES, "Permission denied", f"/data/{SUBJECT}.nii"), site if known else None)
    assert "PermissionError" in line and "Permission denied" in line and SUBJECT not in line and "/data" not in line


def test_a_malformed_message_is_named_by_its_rule(site: SiteConfig) -> None:
    assert "breaks the rule 'plan'" in said(MalformedRecord("plan"), site)


def test_an_error_is_told_in_the_words_that_its_maker_has_for_a_log(site: SiteConfig) -> None:
    line = said(DataError(f"{SUBJECT} stands twice in /data/x.csv", for_log="a subject stands twice"), site)
    assert "a subject stands twice" in line and "--check --details" in line and SUBJECT not in line


@pytest.mark.parametrize("kind", [DataError, ConfigurationError, ValueError, RuntimeError, KeyError])
def test_a_text_that_may_name_a_subject_is_not_repeated(kind: type[Exception], site: SiteConfig) -> None:
    line = said(kind(f"{SUBJECT} in /data/x.csv"), site)
    assert line.startswith(f"{kind.__name__} in test_own_log.py, line ") and SUBJECT not in line


def test_what_the_site_itself_refuses_is_said_in_full(site: SiteConfig) -> None:
    assert said(QueryRefused("round 9 is not in the plan"), site).endswith("round 9 is not in the plan")
    assert said(AuditError("line 3 was edited"), site).endswith("line 3 was edited")
