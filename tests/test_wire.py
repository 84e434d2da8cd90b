"""What a worker notes of the message in its hands is enough to answer it."""

from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedkvasir.wire import recall, remember


def test_who_remembers_a_message_can_answer_it_without_what_was_in_it() -> None:
    message = Message(RecordDict({"config": ConfigRecord({"run": "tiny-01234567"})}), 7, "train", group_id="3")
    note = remember("token", message)
    token, known = recall(note)
    assert token == "token" and known.metadata == message.metadata and b"tiny-01234567" not in note
    ours, theirs = (Message(Error(1, "died"), reply_to=each).metadata for each in (message, known))
    assert ours.reply_to_message_id == theirs.reply_to_message_id and ours.dst_node_id == theirs.dst_node_id
