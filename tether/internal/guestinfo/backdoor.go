package guestinfo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/containervm/containervm/tether/link"
)

// Numbers of VMware's backdoor: open-vm-tools lib/include/backdoor_def.h and guest_msg_def.h, and Linux's
// drivers/gpu/drm/vmwgfx/vmwgfx_msg_x86.h.
const (
	backdoorMagic   = 0x564D5868 // EAX
	backdoorPort    = 0x5658     // DX
	commandMessage  = 0x1e       // CX; the step is in the upper half of ECX
	protocolRPCI    = 0x49435052 // "RPCI"
	flagCookie      = 0x80000000
	stepOpen        = 0
	stepSendSize    = 1
	stepSendPayload = 2
	stepRecvSize    = 3
	stepRecvPayload = 4
	stepRecvStatus  = 5
	stepClose       = 6

	statusSuccess    = 0x0001 // upper half of the returned ECX
	statusDoRecv     = 0x0002
	statusCheckpoint = 0x0040
)

// backdoorTries is how often a message is sent that the host interrupts by a checkpoint, such as a snapshot or vMotion.
const backdoorTries = 5

// errCheckpoint says that the host lost the channel while it saved the machine's state.
var errCheckpoint = errors.New("channel was closed by a checkpoint of the machine")

// registers go into the port instruction and come back from it.
type registers struct{ ax, bx, cx, dx, si, di uint32 }

// Backdoor is the transport through VMware's I/O port, four bytes at a time. The hypervisor serves the instruction in user
// mode without an I/O privilege level. Not proven on VMware itself: its tests fake the port.
type Backdoor struct {
	in func(*registers)
}

// NewBackdoor returns a transport over in, which executes the port instruction.
func NewBackdoor(in func(*registers)) *Backdoor { return &Backdoor{in: in} }

// Close does nothing: each command has a channel of its own.
func (b *Backdoor) Close() error { return nil }

// Once implements Transport. Whether a checkpoint loses the channel of a freeze is not known: unproven.
func (b *Backdoor) Once(ctx context.Context, command string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return b.try(command)
}

// RoundTrip opens a channel, sends the command, receives the reply and closes the channel.
func (b *Backdoor) RoundTrip(ctx context.Context, command string) (reply string, err error) {
	for range backdoorTries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		reply, err = b.try(command)
		if !errors.Is(err, errCheckpoint) {
			return reply, err
		}
	}
	return "", err
}

func (b *Backdoor) try(command string) (string, error) {
	ch, err := b.open()
	if err != nil {
		return "", err
	}
	defer ch.step(stepClose, 0)
	if err := ch.send(command); err != nil {
		return "", err
	}
	return ch.receive()
}

// channel is an open RPCI channel.
type channel struct {
	in                   func(*registers)
	id                   uint32
	cookieHigh, cookieLo uint32
}

func (b *Backdoor) open() (*channel, error) {
	r := registers{ax: backdoorMagic, bx: protocolRPCI | flagCookie, cx: stepOpen<<16 | commandMessage, dx: backdoorPort}
	b.in(&r)
	if r.cx>>16&statusSuccess == 0 {
		return nil, errors.New("cannot open RPCI channel: the hypervisor refused")
	}
	return &channel{in: b.in, id: r.dx >> 16, cookieHigh: r.si, cookieLo: r.di}, nil
}

// step executes one step with bx and returns the registers.
func (c *channel) step(step, bx uint32) registers {
	r := registers{
		ax: backdoorMagic, bx: bx, cx: step<<16 | commandMessage, dx: c.id<<16 | backdoorPort, si: c.cookieHigh, di: c.cookieLo,
	}
	c.in(&r)
	return r
}

func check(r registers, doing string) error {
	switch status := r.cx >> 16; {
	case status&statusSuccess != 0:
		return nil
	case status&statusCheckpoint != 0:
		return errCheckpoint
	default:
		return fmt.Errorf("cannot %s by RPCI: status %#x", doing, status)
	}
}

func (c *channel) send(text string) error {
	if err := check(c.step(stepSendSize, uint32(len(text))), "send size"); err != nil {
		return err
	}
	for rest := []byte(text); len(rest) > 0; {
		var word [4]byte
		rest = rest[copy(word[:], rest):]
		if err := check(c.step(stepSendPayload, binary.LittleEndian.Uint32(word[:])), "send"); err != nil {
			return err
		}
	}
	return nil
}

func (c *channel) receive() (string, error) {
	r := c.step(stepRecvSize, 0)
	if err := check(r, "receive size"); err != nil {
		return "", err
	}
	if r.cx>>16&statusDoRecv == 0 {
		return "", errors.New("cannot receive by RPCI: the host has no reply")
	}
	size := r.bx
	if size > link.MaxMessage {
		return "", fmt.Errorf("cannot receive by RPCI: reply of %d bytes, the limit is %d", size, link.MaxMessage)
	}
	text := make([]byte, 0, size+3)
	for uint32(len(text)) < size {
		r := c.step(stepRecvPayload, statusSuccess)
		if err := check(r, "receive"); err != nil {
			return "", err
		}
		text = binary.LittleEndian.AppendUint32(text, r.bx)
	}
	return string(text[:size]), check(c.step(stepRecvStatus, statusSuccess), "acknowledge")
}
