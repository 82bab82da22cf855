package vsock

// buffer is a ring of bytes that grows as far as it is filled. The zero value is empty.
type buffer struct {
	data  []byte // length: 0 or a power of 2
	start int
	n     int
}

// write appends p, growing as it must: the caller bounds it.
func (b *buffer) write(p []byte) {
	if b.n+len(p) > len(b.data) {
		b.grow(b.n + len(p))
	}
	end := (b.start + b.n) & (len(b.data) - 1)
	n := copy(b.data[end:], p)
	copy(b.data, p[n:])
	b.n += len(p)
}

func (b *buffer) grow(need int) {
	size := max(4096, len(b.data))
	for size < need {
		size *= 2
	}
	data := make([]byte, size)
	n := copy(data, b.front())
	copy(data[n:b.n], b.data)
	b.data, b.start = data, 0
}

// front is the longest unbroken piece at the front. Writes leave it as it is until it is discarded.
func (b *buffer) front() []byte { return b.data[b.start:min(b.start+b.n, len(b.data))] }

// discard drops n bytes from the front.
func (b *buffer) discard(n int) {
	b.n -= n
	if b.start += n; b.start >= len(b.data) {
		b.start -= len(b.data)
	}
	if b.n == 0 {
		b.start = 0
	}
}

// read moves bytes from the front into p.
func (b *buffer) read(p []byte) int {
	total := 0
	for total < len(p) && b.n > 0 {
		n := copy(p[total:], b.front())
		b.discard(n)
		total += n
	}
	return total
}
