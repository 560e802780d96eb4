"""`python -m formation_agent.brain`, which the keeper starts: the agent, with gRPC told first."""

from __future__ import annotations

import sys

from formation import grpcenv


def main() -> int:
    grpcenv.prepare()
    from formation_agent import agent

    return agent.main()


if __name__ == "__main__":
    sys.exit(main())
