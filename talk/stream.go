package talk

// Limits of one direction's beginning: a hello with keys that withstand quantum
// computers has 2 KiB, the issuer stands in the first KiB of a certificate.
const (
	maxBegin = 8 << 10
	maxLate  = 4 // segments that came before one that is missing
)

// A stream is one direction of a TCP connection.
type stream struct {
	known bool   // base is set
	base  uint32 // sequence number of the first byte
	high  uint64 // bytes from there to the last one seen
	done  bool   // the beginning is read, or is not going to be
	data  []byte // the beginning, without gaps
	late  []piece
}

type piece struct {
	at   int
	data []byte
}

// count takes a segment into the count of bytes. Between two segments that are
// seen there are less than 2 GiB.
func (s *stream) count(seq uint32, size int) {
	end := seq + uint32(size)
	if d := int32(end - s.base - uint32(s.high)); d > 0 {
		s.high += uint64(d)
	}
}

// add puts a segment's payload into the beginning. It returns how many bytes
// more are held, and whether data has grown.
func (s *stream) add(seq uint32, payload []byte, budget int) (held int, grown bool) {
	off := int32(seq - s.base)
	if off < 0 {
		if int(-off) >= len(payload) {
			return 0, false
		}
		payload, off = payload[-off:], 0
	}
	at := int(off)
	if at >= maxBegin {
		return 0, false
	}
	payload = payload[:min(len(payload), maxBegin-at)]
	if at > len(s.data) {
		if len(s.late) < maxLate && len(payload) <= budget {
			s.late = append(s.late, piece{at, append([]byte(nil), payload...)})
			return len(payload), false
		}
		return 0, false
	}
	for {
		if fresh := at + len(payload) - len(s.data); fresh > 0 && fresh <= budget-held {
			s.data = append(s.data, payload[len(payload)-fresh:]...)
			held += fresh
			grown = true
		}
		next := -1
		for i, p := range s.late {
			if p.at <= len(s.data) {
				next = i
			}
		}
		if next < 0 {
			return held, grown
		}
		p := s.late[next]
		s.late = append(s.late[:next], s.late[next+1:]...)
		held -= len(p.data)
		at, payload = p.at, p.data
	}
}

// drop forgets the beginning and returns how many bytes that were.
func (s *stream) drop() (freed int) {
	freed = len(s.data)
	for _, p := range s.late {
		freed += len(p.data)
	}
	s.data, s.late, s.done = nil, nil, true
	return freed
}
