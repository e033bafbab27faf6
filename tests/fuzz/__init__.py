"""A fuzzer for what devices can send to the emulator: MQTT, WebSocket frames, TLS records, topics and JSON.

`python -m tests.fuzz --help` says how to run it. It sends to this machine alone.
"""
