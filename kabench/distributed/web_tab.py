"""A tab of locust's web page that shows the sockets of each agent, while a test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import request

from kabench.load.figures.messages import SocketCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response
    from locust.web import WebUI

    from kabench.distributed.gathering import AgentNow

_KEY = "sockets"

_TITLES = {name: counted.title for name, counted in SocketCounts.counted().items() if counted.title}
_COLUMNS = {"name": "Agent", "transactions": "Transactions", "req_per_socket": "Req/socket", **_TITLES}


def show_sockets(web_ui: WebUI, agents: Callable[[], list[AgentNow]]) -> None:
    """Add the tab. locust's page requests its statistics again and again; the tab's figures go with them."""
    arguments = web_ui.template_args
    structure = [{"key": key, "title": title} for key, title in _COLUMNS.items()]
    arguments["extended_tabs"] = [*arguments.get("extended_tabs", ()), {"title": "Sockets", "key": _KEY}]
    arguments["extended_tables"] = [*arguments.get("extended_tables", ()), {"key": _KEY, "structure": structure}]
    app = web_ui.app
    if app is None:
        return

    @app.after_request
    def add_sockets(response: Response) -> Response:
        if request.path.endswith("/stats/requests") and response.is_json:
            body: dict[str, Any] = response.get_json()
            others = [each for each in body.get("extended_stats", ()) if each["key"] != _KEY]  # locust keeps responses
            body["extended_stats"] = [*others, {"key": _KEY, "data": [_row(agent) for agent in agents()]}]
            response.set_data(app.json.dumps(body))
        return response


def _row(agent: AgentNow) -> dict[str, Any]:
    return {
        "name": agent.agent,
        "transactions": agent.transactions,
        "req_per_socket": None if agent.req_per_socket is None else round(agent.req_per_socket, 2),
        **{name: getattr(agent.sockets, name) for name in _TITLES},
    }
