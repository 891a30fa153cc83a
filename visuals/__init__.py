"""Pictures of decoding: one picture, one file, each a function of the event stream.

    from visuals.picture import pictures

    drawing = pictures()["acceptance"].draw(events)     # plain data, ready for JSON

A picture knows nothing of methods: it asks only which events are there. Live is `draw(events[:now])`, replay
is `draw(events[:k])`, and both give the same drawing for the same events.
"""
