package forkpoint

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's protocol for file systems of programs (Linux, include/uapi/linux/fuse.h), version 7.39: the first with
// shared mappings of files that are read past the cache. All numbers are in the processor's order of bytes.
const (
	protocolMajor = 7
	protocolMinor = 39

	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opRelease     = 18
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opPoll        = 40
	opBatchForget = 42

	initExt         = 1 << 30 // of flags: there are flags2
	directAllowMmap = 1 << 4  // of flags2
	openDirect      = 1 << 0  // reads are the server's, which so knows what each opening has seen
	pollNotify      = 1 << 0
	pollReadNormal  = 0x40 // POLLRDNORM, poll(2)

	noticePoll  = 1
	noticeStore = 4

	headerIn  = 40
	headerOut = 16
	rootNode  = 1
	// minBuffer is what the kernel wants a read to have room for, in bytes.
	minBuffer = 8192
	// maxWrite is the least that there can be; nothing is written.
	maxWrite = 4096

	fileMode = unix.S_IFREG | 0o444
	fileSize = 8
	// forever is how long the kernel may keep attributes, in seconds: they never change.
	forever = 1 << 40
)

// answer is that to a request of the kernel; nil: there is none.
func (g *Generation) answer(request []byte) []byte {
	if len(request) < headerIn {
		return nil
	}
	op, unique := binary.NativeEndian.Uint32(request[4:]), binary.NativeEndian.Uint64(request[8:])
	if op == opForget || op == opBatchForget || op == opInterrupt {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	body, err := g.doLocked(op, request[headerIn:])
	if err != 0 {
		body = nil
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerOut+len(body)))
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(err)))
	b = binary.NativeEndian.AppendUint64(b, unique)
	return append(b, body...)
}

// doLocked does a request; in is what follows its header.
func (g *Generation) doLocked(op uint32, in []byte) ([]byte, unix.Errno) {
	switch op {
	case opInit:
		return initAnswer(), 0
	case opGetattr:
		return attributes(), 0
	case opOpen:
		return g.openLocked()
	case opFlush:
		return nil, 0
	}
	if len(in) < 8 {
		return nil, unix.ENOSYS
	}
	name := binary.NativeEndian.Uint64(in)
	o := g.opened[name]
	switch {
	case op != opRead && op != opPoll && op != opRelease:
		return nil, unix.ENOSYS
	case o == nil:
		return nil, unix.EBADF
	case op == opRead:
		return g.readLocked(o, in)
	case op == opPoll:
		return g.pollLocked(o, in)
	}
	delete(g.opened, name)
	return nil, 0
}

func (g *Generation) openLocked() ([]byte, unix.Errno) {
	if len(g.opened) >= maxOpen {
		return nil, unix.ENFILE
	}
	g.used = true
	g.next++
	g.opened[g.next] = &opened{seen: g.value}
	b := binary.NativeEndian.AppendUint64(nil, g.next)
	return binary.NativeEndian.AppendUint64(b, openDirect), 0 // and a padding
}

// readLocked answers struct fuse_read_in: name, offset, size.
func (g *Generation) readLocked(o *opened, in []byte) ([]byte, unix.Errno) {
	if len(in) < 20 {
		return nil, unix.EINVAL
	}
	offset, size := binary.NativeEndian.Uint64(in[8:]), binary.NativeEndian.Uint32(in[16:])
	if offset >= fileSize {
		return nil, 0
	}
	o.seen = g.value
	text := g.textLocked()[offset:]
	return text[:min(len(text), int(size))], 0
}

// pollLocked answers struct fuse_poll_in: name, the kernel's name for who waits, flags.
func (g *Generation) pollLocked(o *opened, in []byte) ([]byte, unix.Errno) {
	if len(in) < 20 {
		return nil, unix.EINVAL
	}
	var events uint64 // and a padding
	if o.seen != g.value {
		events = unix.POLLIN | pollReadNormal
	} else if binary.NativeEndian.Uint32(in[16:])&pollNotify != 0 {
		o.waiter = binary.NativeEndian.Uint64(in[8:])
	}
	return binary.NativeEndian.AppendUint64(nil, events), 0
}

// initAnswer is struct fuse_init_out.
func initAnswer() []byte {
	b := make([]byte, 64)
	for at, value := range map[int]uint32{0: protocolMajor, 4: protocolMinor, 12: initExt, 20: maxWrite, 24: 1, 32: directAllowMmap} {
		binary.NativeEndian.PutUint32(b[at:], value)
	}
	return b
}

// attributes are struct fuse_attr_out.
func attributes() []byte {
	b := make([]byte, 104)
	binary.NativeEndian.PutUint64(b, forever)
	attr := b[16:] // struct fuse_attr
	binary.NativeEndian.PutUint64(attr, rootNode)
	binary.NativeEndian.PutUint64(attr[8:], fileSize)
	for at, value := range map[int]uint32{60: fileMode, 64: 1, 80: 4096} { // mode, links, size of blocks
		binary.NativeEndian.PutUint32(attr[at:], value)
	}
	return b
}

func notice(code uint32, size int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerOut+size))
	b = binary.NativeEndian.AppendUint32(b, code)
	return binary.NativeEndian.AppendUint64(b, 0)
}

// pollNotice wakes who waits.
func pollNotice(waiter uint64) []byte {
	return binary.NativeEndian.AppendUint64(notice(noticePoll, 8), waiter)
}

// storeNotice gives the pages that are mapped another text.
func storeNotice(text []byte) []byte {
	b := binary.NativeEndian.AppendUint64(notice(noticeStore, 24+len(text)), rootNode)
	b = binary.NativeEndian.AppendUint64(b, 0)                 // offset
	b = binary.NativeEndian.AppendUint64(b, uint64(len(text))) // and a padding
	return append(b, text...)
}
