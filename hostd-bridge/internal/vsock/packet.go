package vsock

import "encoding/binary"

// headerLen is the size of struct virtio_vsock_hdr (virtio 1.2, 5.10.6).
const headerLen = 44

// maxPayload is the largest payload that a Linux guest puts into a packet (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
const maxPayload = 64 << 10

// typeStream is VIRTIO_VSOCK_TYPE_STREAM.
const typeStream = 1

// op is an operation of the protocol (virtio 1.2, 5.10.6).
type op uint16

const (
	opRequest       op = 1
	opResponse      op = 2
	opReset         op = 3
	opShutdown      op = 4
	opData          op = 5 // VIRTIO_VSOCK_OP_RW
	opCreditUpdate  op = 6
	opCreditRequest op = 7
)

// Flags of opShutdown: what the sender will not do any more.
const (
	shutReceive uint32 = 1
	shutSend    uint32 = 2
	shutBoth           = shutReceive | shutSend
)

// header is struct virtio_vsock_hdr.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	kind             uint16
	op               op
	flags            uint32
	bufAlloc         uint32 // size of the sender's receive buffer
	fwdCnt           uint32 // bytes that the sender has taken out of it so far, modulo 1<<32
}

// put encodes h into the first headerLen bytes of b.
func (h *header) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], uint16(h.op))
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:headerLen], h.fwdCnt)
}

// parseHeader decodes the first headerLen bytes of b.
func parseHeader(b []byte) header {
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(b[0:]), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		length: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: op(le.Uint16(b[30:])),
		flags: le.Uint32(b[32:]), bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:headerLen]),
	}
}
