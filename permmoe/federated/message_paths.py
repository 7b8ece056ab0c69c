"""Requests by which messages travel between sites, the superlink and the study's process; both ends of each path.

The bodies are Flower's own requests and answers, several in one where parcels allow it (permmoe.federated.parcel).
"""

from __future__ import annotations

import httpx
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufRequestContext

HEARTBEAT_SECONDS = 10.0
"""The shortest that Flower takes: a site that vanished is missed after two, and may come back after two."""
WAIT_SECONDS = 20.0
"""How long a request for a message waits for one. A site whose request waits is there: it sends no heartbeat."""
LONGEST_SILENCE_SECONDS = 0.8 * HEARTBEAT_SECONDS
"""How long a site may go without a sign that it is there, so that it is never missed."""

HEARTBEAT = "/v1/site/heartbeat"
"""SendNodeHeartbeatRequest -> SendNodeHeartbeatResponse."""
NEXT_MESSAGE = "/v1/site/next-message"
"""PullMessagesRequest -> PullMessagesResponse, as soon as there is a message."""
EMPTY_HANDED = "empty-handed"
"""In place of a message's name in a PullMessagesRequest, the first of a connection: the site is at work on nothing, so
that a message which it was given and did not answer is lost, and is given again."""
OBJECTS = "/v1/site/objects"
"""PullObjectRequest, several -> PullObjectResponse, for the first of them that fit into one answer."""
REPLY = "/v1/site/reply"
"""PushMessagesRequest and objects of it, each a PushObjectRequest -> PushMessagesResponse with what is missing."""
REPLY_OBJECTS = "/v1/site/reply-objects"
"""PushObjectRequest, several -> PushObjectResponse for each."""
SITE_PATHS = frozenset({HEARTBEAT, NEXT_MESSAGE, OBJECTS, REPLY, REPLY_OBJECTS})

STUDY_MESSAGES = "/v1/study/messages"
"""PushAppMessagesRequest and objects, each a PushObjectRequest -> PushAppMessagesResponse with what is missing."""
STUDY_MESSAGE_OBJECTS = "/v1/study/message-objects"
"""PushObjectRequest, several -> PushObjectResponse for each."""
STUDY_REPLIES = "/v1/study/replies"
"""PullAppMessagesRequest, and a ConfirmMessageReceivedRequest for each reply that has come whole ->
PullAppMessagesResponse, as soon as there is a reply."""
STUDY_OBJECTS = "/v1/study/objects"
"""PullObjectRequest, several -> PullObjectResponse, for the first of them that fit into one answer."""
STUDY_PATHS = frozenset({STUDY_MESSAGES, STUDY_MESSAGE_OBJECTS, STUDY_REPLIES, STUDY_OBJECTS})


def post(client: ProtobufClient, path: str, body: bytes) -> bytes:
    """Send a body of ours over a client of Flower's, which signs it as its own; return the answer's body.

    Raises what the client's own requests raise: httpx.HTTPError.
    """

    def send() -> httpx.Response:
        headers = {"content-type": "application/protobuf"}
        request = client._client.build_request("POST", f"{client._base_url}{path}", content=body, headers=headers)
        response = client._send(ProtobufRequestContext(path, Node(), request))
        response.raise_for_status()
        return response

    return (client._retry_invoker.invoke(send) if client._retry_invoker else send()).content
