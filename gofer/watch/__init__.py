"""Looking on while it serves: the trace, and the process that makes it known. docs/tracing.md is for who uses it.

Nothing of this is imported, and nothing of it costs a request an instruction, unless an option asks for it. Then each transport
gets a table of handlers of its own (`hook`), whose entries call the real ones and write down what was asked and answered in
memory shared with one more process (`ring`), the watcher (`watcher`), forked before the jail: that one writes the file and the
lines, so that neither a slow disk nor a stopped terminal holds up a client. `record` is what a trace is made of, `messages`
what is in a message, `lines` how one is shown, `start` makes all of it from options.
"""
