"""What a plain program does: one sample per message, QoS 1, on paho (20 in flight, its default).

``python -m tests.helpers.publishing PORT MESSAGES`` prints messages a second, acknowledged.
"""

import json
import sys
import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

SAMPLE = {"gateway": "test-site", "tag": "t1", "value": 12.345, "q": 2}


def main() -> None:
    """Publish them and say how fast the broker had them all."""
    port, messages = map(int, sys.argv[1:])
    left, done, connected = messages, threading.Event(), threading.Event()

    def published(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_publish = published
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait()
    begin = time.monotonic()
    for number in range(messages):
        payload = json.dumps({**SAMPLE, "t_ns": time.time_ns(), "seq": number})
        client.publish("baseline", payload, qos=1)
    done.wait()
    print(messages / (time.monotonic() - begin))
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
