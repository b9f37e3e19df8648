package p2p

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/quantra-l/quantra/zerotrust"
)

// The frames of the guard's protocol, drawn in docs/format/guard-protocol.md.
const (
	frameHello     = 1 // 32 bytes of chance, and an identity
	frameChallenge = 2
	frameAnswer    = 3
	frameVerdict   = 4
	framePuzzle    = 5
	frameSolution  = 6
	frameBye       = 7

	frameHead = 3 // the kind, and two bytes of length
	nonceSize = 32
	// maxFrame bounds a frame's body: the longest is a hello.
	maxFrame = nonceSize + zerotrust.MaxDocument
)

// verdict is what one end tells the other. Why somebody is denied is in the record of whoever denies, not on the wire.
type verdict byte

const (
	verdictOK          verdict = 0
	verdictDenied      verdict = 1
	verdictBusy        verdict = 2 // later it may be otherwise
	verdictUnavailable verdict = 3
	byeClosed          verdict = 4 // in order
	byeReplaced        verdict = 5 // another connection of the same two has taken over
)

func (v verdict) String() string {
	switch v {
	case verdictOK:
		return "let in"
	case verdictDenied:
		return "denied"
	case verdictBusy:
		return "busy"
	case verdictUnavailable:
		return "unavailable"
	case byeClosed:
		return "closed"
	case byeReplaced:
		return "replaced"
	}
	return fmt.Sprintf("verdict %d", byte(v))
}

// sizes are the least and the most bytes of each kind's body.
var sizes = [...][2]int{
	frameHello:     {nonceSize + 1, maxFrame},
	frameChallenge: {zerotrust.ChallengeSize, zerotrust.ChallengeSize},
	frameAnswer:    {zerotrust.AnswerSize, zerotrust.AnswerSize},
	frameVerdict:   {1, 1},
	framePuzzle:    {zerotrust.PuzzleSize, zerotrust.PuzzleSize},
	frameSolution:  {zerotrust.SolutionSize, zerotrust.SolutionSize},
	frameBye:       {1, 1},
}

// appendFrame adds a frame to b. The body is of the kind's size.
func appendFrame(b []byte, kind byte, body ...[]byte) []byte {
	n := 0
	for _, p := range body {
		n += len(p)
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	for _, p := range body {
		b = append(b, p...)
	}
	return b
}

// readFrame reads a frame into buf, and refuses one that has no room in it. The body is good until buf is used again.
func readFrame(r io.Reader, buf []byte) (kind byte, body []byte, err error) {
	head := buf[:frameHead]
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	kind = head[0]
	n := int(binary.BigEndian.Uint16(head[1:]))
	if int(kind) >= len(sizes) || sizes[kind] == [2]int{} {
		return 0, nil, fmt.Errorf("%w: a frame of kind %d", ErrCorrupt, kind)
	}
	if low, high := sizes[kind][0], min(sizes[kind][1], len(buf)-frameHead); n < low || n > high {
		return 0, nil, fmt.Errorf("%w: a frame of kind %d has %d bytes, not %d to %d", ErrCorrupt, kind, n, low, high)
	}
	body = buf[frameHead : frameHead+n]
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, body, nil
}
