"""Faults meet the same deployments as the tests of the service."""

from __future__ import annotations

from tests.serving.conftest import served, site

__all__ = ["served", "site"]
