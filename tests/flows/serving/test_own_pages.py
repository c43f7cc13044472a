"""What browsers may do on the server of `cpt up`."""

from pathlib import Path

import httpx

from flows.serving.overview import ServingStatus

REFUSED = (403, "this page belongs to another host; without a password this server answers as localhost alone\n")


def test_pages_of_another_host_start_nothing(served: tuple[Path, ServingStatus]) -> None:
    """A browser says which page asks: that of the server itself may, another may not, and a program says nothing."""
    _, seen = served
    statuses = []
    for origin in (None, str(seen.ui_url), "http://evil.example", "null"):
        headers = {"Origin": origin} if origin else {}
        reply = httpx.post(f"{seen.api_url}/flow_runs/filter", json={}, headers=headers, timeout=60)
        statuses.append((reply.status_code, reply.text if reply.status_code == 403 else ""))
    assert statuses == [(200, ""), (200, ""), REFUSED, REFUSED]


def test_a_foreign_name_for_this_machine_is_refused(served: tuple[Path, ServingStatus]) -> None:
    """A page of evil.example whose name has come to mean 127.0.0.1 is of the same origin, but not of a loopback name."""
    _, seen = served
    port = seen.ui_url.rpartition(":")[2]
    statuses = []
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"evil.example:{port}", "10.0.0.1", "["):
        headers = {"Host": host, "Origin": f"http://{host}"}
        reply = httpx.post(f"{seen.api_url}/flow_runs/filter", json={}, headers=headers, timeout=60)
        statuses.append((reply.status_code, reply.text if reply.status_code == 403 else ""))
    assert statuses == [(200, "")] * 3 + [REFUSED] * 3


def test_pages_ask_no_other_host(served: tuple[Path, ServingStatus]) -> None:
    """Both UIs carry the policy, the API's answers do not."""
    _, seen = served
    paths = ("/", "/runs", "/v2/", "/api/health")
    page = {"Accept": "text/html"}
    answers = [httpx.get(f"{seen.ui_url}{path}", headers=page, follow_redirects=True, timeout=60) for path in paths]
    carried = ["connect-src 'self'" in answer.headers.get("content-security-policy", "") for answer in answers]
    assert carried == [True, True, True, False]
