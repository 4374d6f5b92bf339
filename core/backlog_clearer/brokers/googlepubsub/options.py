"""How to reach one Google Cloud Pub/Sub subscription."""

from __future__ import annotations

import os
import re
from typing import ClassVar

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from backlog_clearer.options.addresses import checked_address
from backlog_clearer.options.base import Name, SystemOptions

_FULL_NAME = re.compile(r"projects/([^/]+)/subscriptions/([^/]+)")


class PubSubOptions(SystemOptions):
    """One subscription, and how it may be undone."""

    NAMES: ClassVar[tuple[str, ...]] = ("subscription_id",)
    COMMAS: ClassVar[bool] = False

    project_id: Name | None = Field(
        None, description="project of the subscription; not needed where its full name is given"
    )
    subscription_id: Name = Field(
        description="name of the subscription, or its full name projects/P/subscriptions/S"
    )
    credentials_file: str | None = Field(
        None, description="service account key or other credentials file; otherwise ADC is used"
    )
    no_snapshot: bool = Field(
        False, description="take no snapshot before the change; the run cannot be undone"
    )
    delete_snapshot: bool = Field(
        False, description="restore: delete the snapshot after the subscription was set back to it"
    )
    api_endpoint: str | None = Field(
        None, description="host:port of a regional or private Pub/Sub endpoint"
    )
    monitoring_endpoint: str | None = Field(
        None,
        description="host:port of Cloud Monitoring, if not the public one;"
        " http://host:port is plain text without credentials",
    )
    max_outstanding_messages: int = Field(
        20_000, ge=1, le=1_000_000, description="maximum of unacknowledged messages of one stream"
    )
    max_outstanding_bytes: int = Field(
        32 << 20, ge=1 << 20, le=1 << 30, description="maximum of unacknowledged bytes of one stream"
    )
    stream_ack_deadline_seconds: int = Field(
        60, ge=10, le=600, description="lease of delivered messages, after which they are redelivered"
    )

    @field_validator("api_endpoint")
    @classmethod
    def _is_address(cls, text: str | None) -> str | None:
        return None if text is None else checked_address(text)

    @field_validator("monitoring_endpoint")
    @classmethod
    def _is_endpoint(cls, text: str | None) -> str | None:
        return None if text is None else checked_address(text, schemes=("http",))

    @model_validator(mode="after")
    def _names_one_subscription(self) -> Self:
        full = _FULL_NAME.fullmatch(self.subscription_id)
        if "/" in self.subscription_id and not full:
            raise ValueError(
                "--subscription-id is not a subscription: give its name, or its full name"
                " projects/PROJECT/subscriptions/NAME"
            )
        if full and self.project_id not in (None, full[1]):
            raise ValueError(
                f"--project-id is {self.project_id!r}, but --subscription-id names a subscription"
                f" of project {full[1]!r}; leave --project-id out"
            )
        if not full and not self.project_id:
            raise ValueError(
                "--project-id is required unless --subscription-id is a full name,"
                " projects/PROJECT/subscriptions/NAME"
            )
        return self

    @classmethod
    def sent_files(cls) -> frozenset[str]:
        """See `SystemOptions`."""
        return frozenset({"credentials_file"})

    @property
    def place(self) -> str:
        """See `SystemOptions`."""
        emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
        return f"the emulator at {emulator}" if emulator else self.api_endpoint or "Pub/Sub"

    @property
    def project(self) -> str:
        """The project of the subscription."""
        full = _FULL_NAME.fullmatch(self.subscription_id)
        return full[1] if full else str(self.project_id)

    @property
    def subscription(self) -> str:
        """The full name of the subscription, projects/P/subscriptions/S."""
        return f"projects/{self.project}/subscriptions/{self.subscription_id.rsplit('/', 1)[-1]}"
