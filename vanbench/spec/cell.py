"""One point of a sweep: which model, on what inputs, how executed. A frozen value; it measures nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

__all__ = ["Cell"]


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell as it was asked for: `auto` stays `auto`, what it resolved to is a column.

    model: the registry's name, or `package.module:callable`. image_size: square, in pixels. batch_size: images.
    threads: intra-op threads, or "auto" for torch's own choice. The other words are in `spec.names`.
    """

    model: str
    task: str = "infer"
    batch_size: int = 1
    image_size: int = 224
    precision: str = "fp32"
    memory_format: str = "contiguous"
    compile: str = "off"
    form: str = "reference"
    depthwise: str = "native"
    allocator: str = "system"
    device: str = "auto"
    threads: int | str = "auto"

    @property
    def asked(self) -> dict[str, Any]:
        """The fields that differ from their default, in the order of declaration."""
        return {
            field.name: value
            for field in msgspec.structs.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @property
    def key(self) -> str:
        """16 hex digits of SHA-256 over the canonical JSON of `asked`.

        Only what differs from a default goes in, so that a new axis changes no old key.
        """
        text = json.dumps(self.asked, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """A name for people: `van_b0 bs8 fp32 channels_last`; defaults other than batch and precision stay out."""
        words = [self.model]
        if self.task != "infer":
            words.append(self.task)
        words.append(f"bs{self.batch_size}")
        if self.image_size != 224:
            words.append(f"{self.image_size}px")
        words.append(self.precision)
        said = ("memory_format", "form", "depthwise", "allocator", "device")
        words += [str(value) for name, value in self.asked.items() if name in said]
        if self.compile != "off":
            words.append(f"compile={self.compile}")
        if self.threads != "auto":
            words.append(f"threads={self.threads}")
        return " ".join(words)

    @property
    def contest(self) -> tuple[str, int, int]:
        """Cells of the same contest are compared: the same task, batch and image size."""
        return (self.task, self.batch_size, self.image_size)
