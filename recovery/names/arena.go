package names

// A ref points into an arena, in units of 8 bytes. The zero ref points at nothing.
type ref uint32

const (
	chunkShift = 20
	chunkSize  = 1 << chunkShift
	refShift   = 3
)

// An arena holds many small byte strings with neither a pointer nor a header for each: a million names are a few
// hundred objects for the garbage collector.
type arena struct {
	chunks [][]byte
	used   int // of the last chunk
}

// alloc returns n zeroed bytes, at most chunkSize - 8.
func (a *arena) alloc(n int) (ref, []byte) {
	n = (n + 1<<refShift - 1) &^ (1<<refShift - 1)
	if len(a.chunks) == 0 || a.used+n > chunkSize {
		a.chunks = append(a.chunks, make([]byte, chunkSize))
		a.used = 0
		if len(a.chunks) == 1 {
			a.used = 1 << refShift
		}
	}
	last := len(a.chunks) - 1
	at := a.used
	a.used += n
	return ref((last<<chunkShift + at) >> refShift), a.chunks[last][at : at+n]
}

// at returns the bytes from a ref to the end of its chunk.
func (a *arena) at(r ref) []byte {
	return a.chunks[r>>(chunkShift-refShift)][(int(r)<<refShift)&(chunkSize-1):]
}
