"""A NeMo Gym resources server with rewards from Regrade."""

import os
from typing import Any

import aiohttp
from fastapi import Request
from fastapi.responses import JSONResponse
from nemo_gym.base_resources_server import BaseResourcesServerConfig, SimpleResourcesServer

URL = f"{os.environ.get('REGRADE_URL', 'http://127.0.0.1:8700')}/adapters/nemo-gym/verify"
QUERY = {"task": "essay_writing", "run": "nemo-1", "hold_s": "1800"}


class RegradeServer(SimpleResourcesServer):
    """Serves `/verify`; the base class routes it."""

    config: BaseResourcesServerConfig

    async def verify(self, request: Request) -> Any:
        """The row with its reward."""
        whole = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=whole) as session,
            session.post(URL, params=QUERY, json=await request.json()) as answer,
        ):
            answer.raise_for_status()
            return JSONResponse(await answer.json())


if __name__ == "__main__":
    RegradeServer.run_webserver()
