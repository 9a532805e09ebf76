"""Requests at random: values, cases and the socket that sends them. `bench.workloads.fuzz` is the campaign."""
