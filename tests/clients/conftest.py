"""The clients' tests run against the services of the end-to-end tests."""

from tests.e2e.conftest import models, new_service, service

__all__ = ["models", "new_service", "service"]
