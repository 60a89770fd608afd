"""A FastAPI route that does nothing: what HTTP itself costs here."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def nothing() -> dict[str, str]:
    return {"status": "ok"}
