"""How much one caller may ask for: so much at once, and so much a second for ever. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """`left` of `burst`, as of `at_s`; `per_s` come back each second."""

    per_s: float
    burst: float
    left: float
    at_s: float = 0.0

    @classmethod
    def full(cls, *, per_s: float, burst: float, at_s: float) -> Allowance:
        return cls(per_s=per_s, burst=burst, left=burst, at_s=at_s)

    def spent(self, now_s: float, cost: float = 1.0) -> tuple[Allowance, float]:
        """After one more, which costs so much, and for how long it is too early: 0 when it is not.

        What is too early is counted too when the caller waits for it, and is not when it is
        refused: then go on with the allowance as it was before.
        """
        grown = min(self.burst, self.left + max(0.0, now_s - self.at_s) * self.per_s)
        wait_s = max(0.0, (cost - grown) / self.per_s)
        return replace(self, left=grown - cost, at_s=max(now_s, self.at_s)), wait_s
