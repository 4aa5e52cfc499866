"""A served tree as a file system of the kernel's: the FUSE protocol on /dev/fuse, over a client. No libfuse.

`kernel` has the kernel's structures, `nodes` what the kernel knows of, with the FDs that are held for it, `state` all that the
requests share; `names`, `attributes`, `contents`, `directories` have a function for each operation, `table` lists them.
`crew` reads requests and sees that each is answered in time, `device` mounts, `guard` sees that nothing stays mounted, `process`
puts these together.
"""
