"""Agents without processes: everything real but keeper, journal, logs and launcher."""
