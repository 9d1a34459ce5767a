/*
Package gobcodec reads and writes the bytes of memcache.Gob, App Engine's default codec for sessions, without compiling
the type definitions again for every value.

# The story

memcache.Gob makes a new gob encoder or decoder for each value. A gob stream starts with the definitions of the types in
it, and a new decoder has to compile them before it reads the value. For a session with a handful of attributes that is
most of the work. But the definitions are a prefix of the stream, the same for every session an app's build writes:

	length, -65, definition of the session struct    \
	length, -66, definition of time.Time              > the prefix
	length, -67, definition of the attribute map     /
	length, 65, the session                            the value message

So a decoder that has read a prefix once is kept under the bytes of that prefix and fed nothing but value messages. In the
same way an encoder that has written the prefix once is kept, and what it writes next is put behind the recorded prefix.
The bytes are those of a new encoder, type ids included: gob gives a type its id once per process, at its first use.

# Why it is safe

A decoder is only as good as a new one while it knows exactly the types of its prefix. Gob also puts definitions inside a
value: where an attribute holds a struct (or a map or slice type of its own), its definition stands in the middle of the
value message, which is then cut into several messages; one level down, in a map held by an attribute, the cut is inside the
message and does not show in its framing. Therefore every stream is first walked along its types, without building
anything, and only a value free of definitions (and of nil interfaces, on which gob itself goes astray in fields that it
skips) reaches a kept decoder. All others are decoded by plain gob. So are those on
which a kept decoder fails; the decoder is thrown away, and plain gob starts over with a fresh session, so its answer is the
one that counts. Encoders are treated alike: what a kept encoder wrote is walked, and if it is anything but one message
without definitions, the encoder is thrown away and the session encoded afresh, so that stored bytes are always complete.

The walk also protects from damaged and hostile bytes. Gob allocates a map for as many entries as the stream claims; six
bytes are enough to ask for gigabytes. Here every count must be met by the bytes that follow, or the stream is refused with
[ErrMalformed] before gob sees it, so memory stays proportional to the length of the data. That cannot be said of streams
made on purpose around a shortcut of gob: fields that the reading struct does not have are skipped without looking inside,
and what follows a nil interface or a definition in them gob takes for something else than the walk does.

# Limits

Sessions of github.com/icza/session get the kept encoders and decoders; any other value is left to plain gob, unwalked.
Streams differ from plain gob in one way: those that no gob encoder writes, but a gob decoder lets pass, are refused. These
are streams whose redundant lengths contradict their content, structs without terminator, values of gob's own
description types, types described as two kinds at once, values nested deeper than 10,000 levels, and damage inside a value
that gob skips because the session has no field for it. Bytes after the value are ignored, as by gob.

At most 16 prefixes of at most 4 KiB are remembered; the one unused for longest makes room for a new one, so strange prefixes
cost time as long as they keep coming and nothing after. A prefix is remembered only when its value was decoded. Value
messages longer than 64 KiB go to plain gob, so that no kept buffer is larger. Idle encoders and decoders belong to the
garbage collector.

Everything here may be called from several goroutines. As with gob itself, a session must not be changed while it is
encoded, a value that contains itself must not be encoded, and a panic in an attribute's own GobEncode or GobDecode is the
caller's.
*/
package gobcodec
