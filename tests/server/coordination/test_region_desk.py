"""What a coordinator hands over to a region: it is kept where the gateway reads it, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from permmoe.federated.audit import LedgerHead, countersign
from permmoe.federated.membership import read_papers
from permmoe.federated.roster import RosterSite, sign_roster
from permmoe_server.coordination import region_keeper
from permmoe_server.coordination.admission import KnownSite, write_directory
from permmoe_server.coordination.region_desk import RegionDesk
from permmoe_server.coordination.region_keeper import (
    RegionKeeper,
    RegionState,
    _believed,
    kept_regions,
    known_sites,
    sites_of,
)
from permmoe_server.coordination.reply_announcement import Refused
from permmoe_server.coordination.superlink import NodeState, Superlink, SuperlinkAway
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import load_certificate, new_authority, new_node_key, read_identity
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.members import Members
from permmoe_server.provisioning.papers import PapersDesk
from permmoe_server.provisioning.region_papers import (
    RegionNews,
    RegionPapers,
    read_region_news,
    read_region_papers,
    write_region_papers,
)
from permmoe_server.provisioning.regions import add_region, remove_region
from permmoe_server.studies.receipt_file import save_receipts
from tests.support.patience import PATIENCE_SECONDS, wait_until


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Dementia 7", "fl.example.org")
    add_region(made, "west", "west.example.org")
    administration.add_site(made, "north", region="west")
    administration.add_site(made, "south")
    return made


@pytest.fixture
def region(federation: FederationFolder) -> FederationFolder:
    return federation.region("west")


def papers(federation: FederationFolder) -> RegionPapers:
    """What the coordinator would hand over now."""
    keeper = RegionKeeper(federation, federation.region("west"))
    listed = keeper._roster.read()
    return keeper._papers(listed.signed, sites_of(listed.roster, "west"))


def files(folder: FederationFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_a_regions_gateway_lets_in_and_hands_out_what_the_coordinators_own_would(
    federation: FederationFolder, region: FederationFolder
) -> None:
    server = read_identity(federation.server, federation.server_key)
    heads = [LedgerHead(site, 7, "a" * 64) for site in ("north", "south")]
    signed = [countersign(head, server.key, server.certificate, server.certificate_pem.decode()) for head in heads]
    save_receipts(federation.studies / "first", {receipt.head.site: receipt for receipt in signed})
    certificate = load_certificate(federation.certificate_of("north")).public_bytes(Encoding.DER)
    members = Members(region.roster, load_certificate(region.authority))
    assert not members.includes(certificate)
    RegionDesk(region).take(write_region_papers(papers(federation)))
    assert members.includes(certificate)
    given = read_papers(PapersDesk(region, members, "1.0").answer(certificate, "1.2"))
    assert given.certificate == federation.certificate_of("north").read_bytes()
    assert given.roster == federation.roster.read_bytes() and given.receipt == signed[0].line()
    assert not region.certificate_of("south").exists(), "of other sites a region has what is public: the roster"
    news = read_region_news(RegionDesk(region).take(write_region_papers(papers(federation))))
    assert news.versions == {"north": "1.2"}


def test_a_site_that_is_removed_is_refused_and_its_receipts_are_forgotten(
    federation: FederationFolder, region: FederationFolder
) -> None:
    server = read_identity(federation.server, federation.server_key)
    receipt = countersign(
        LedgerHead("north", 7, "a" * 64), server.key, server.certificate, server.certificate_pem.decode()
    )
    save_receipts(federation.studies / "first", {"north": receipt})
    certificate = load_certificate(federation.certificate_of("north")).public_bytes(Encoding.DER)
    RegionDesk(region).take(write_region_papers(papers(federation)))
    members = Members(region.roster, load_certificate(region.authority))
    assert members.includes(certificate) and list(region.received.iterdir())
    administration.remove_site(federation, "north")
    RegionDesk(region).take(write_region_papers(papers(federation)))
    assert not members.includes(certificate) and not list(region.received.iterdir())


def test_attack_an_old_a_forged_or_no_roster_is_refused_and_nothing_is_kept(
    federation: FederationFolder, region: FederationFolder
) -> None:
    old = papers(federation)
    roster = administration.list_sites(federation)
    forged = roster.with_site("mallory", new_node_key()[1].decode())
    administration.renew_site(federation, "north", region="west")
    RegionDesk(region).take(write_region_papers(papers(federation)))
    before = files(region)
    stranger = new_authority("Dementia 7", datetime.now(UTC))
    for bad in (
        write_region_papers(old),
        write_region_papers(replace(old, roster=sign_roster(forged, stranger.key).decode())),
        write_region_papers(replace(papers(federation), receipts={"north": "{}"})),
        write_region_papers(old)[:-9],
        b"",
        b"[]",
        b'{"roster": 7}',
    ):
        with pytest.raises(Refused, match="papers"):
            RegionDesk(region).take(bad)
    assert files(region) == before


@pytest.mark.parametrize("name", ["../server", "/tmp/x", "../../ca", "unknown"])
def test_attack_a_certificate_under_another_name_than_a_sites_is_written_nowhere(
    name: str, federation: FederationFolder, region: FederationFolder
) -> None:
    RegionDesk(region).take(write_region_papers(papers(federation)))
    before = files(region)
    RegionDesk(region).take(write_region_papers(replace(papers(federation), certificates={name: "mine"})))
    assert files(region) == before


def test_papers_that_were_written_are_read(federation: FederationFolder) -> None:
    sent = papers(federation)
    assert read_region_papers(write_region_papers(sent)) == sent and set(sent.certificates) == {"north"}


def test_attack_a_region_that_tells_of_other_sites_or_in_other_words_is_not_believed() -> None:
    own = [RosterSite(name=name, public_key=new_node_key()[1].decode()) for name in ("north", "south")]
    told = RegionNews({"north": "\x1b[2J", "south": "1.0", "west": "1.0"}, {"rate": -5, "path": 3, "<b>": 1})
    assert _believed(told, own) == RegionNews({"north": "unknown", "south": "1.0"}, {"rate": 0, "path": 3})


def test_attack_a_region_that_gives_its_sites_others_numbers_displaces_nobody(
    federation: FederationFolder, tmp_path: Path
) -> None:
    administration.add_site(federation, "zenith", region="west")
    own = (KnownSite("south", 12, True),)
    claimed = (KnownSite("north", 12, True), KnownSite("south", 13, True), KnownSite("zenith", 12, True))
    sites = known_sites(administration.list_sites(federation), own, [RegionState("west", True, claimed)])
    assert sites == (KnownSite("north", 12, True), KnownSite("south", 12, True), KnownSite("zenith", 12, True))
    write_directory(tmp_path / "sites.json", [*own, *sites])
    assert json.loads((tmp_path / "sites.json").read_text()) == {"12": "south"}


def test_a_region_that_is_started_after_the_coordinator_is_looked_after_once_it_is_there(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over: list[RegionPapers] = []

    class Region(Superlink):
        """A superlink whose folder is not there at first, and which is away once more in between."""

        tries = 0

        def __init__(self, path: Path) -> None:
            Region.tries += 1
            if Region.tries < 3:
                raise FileNotFoundError(path)

        def nodes(self) -> tuple[NodeState, ...]:
            return ()

        def register(self, public_key: str, name: str) -> int:
            return 31

        def hand_over(self, papers: RegionPapers) -> RegionNews:
            handed_over.append(papers)
            if len(handed_over) == 2:
                raise SuperlinkAway
            return RegionNews({"north": "1.2"}, {"path": 3})

        def close(self) -> None:
            pass

    monkeypatch.setattr(region_keeper, "Superlink", Region)
    monkeypatch.setattr(region_keeper, "LOOK_SECONDS", 0.02)
    with kept_regions(federation) as regions:
        regions.tend()
        wait_until("it is there", lambda: regions.states[0].is_there)
        [west] = regions.states
        assert west.sites == (KnownSite("north", 31, False),) and west.news.versions == {"north": "1.2"}
        administration.renew_site(federation, "north", region="west")
        wait_until("the new roster is there", lambda: len(handed_over) >= 3 and regions.states[0].is_there)
    assert handed_over[0].roster != handed_over[1].roster == handed_over[2].roster


def test_regions_that_are_added_and_removed_meanwhile_are_looked_after_and_left(federation: FederationFolder) -> None:
    with kept_regions(federation) as regions:
        assert regions.states == ()
        regions.tend()
        [west] = regions._keepers.values()
        add_region(federation, "east", "east.example.org")
        regions.tend()
        assert regions.states == (RegionState("east"), RegionState("west"))
        assert regions._keepers["west"] is west and all(one._thread.is_alive() for one in regions._keepers.values())
        administration.renew_site(federation, "north", region="east")
        remove_region(federation, "west")
        regions.tend()
        assert regions.states == (RegionState("east"),)
        west._thread.join(PATIENCE_SECONDS)
        assert not west._thread.is_alive()


def test_of_a_region_that_has_not_answered_yet_the_sites_are_known_and_offline(
    federation: FederationFolder, tmp_path: Path
) -> None:
    sites = known_sites(administration.list_sites(federation), (), [RegionState("west")])
    assert sites == (KnownSite("north", None, False), KnownSite("south", None, False))
    write_directory(tmp_path / "sites.json", sites)
    assert json.loads((tmp_path / "sites.json").read_text()) == {}
