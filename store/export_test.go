package store

import (
	"encoding/binary"
	"hash/crc32"
)

// Tend does a round of upkeep, as the clock would, and returns when it is done.
func (db *DB) Tend() {
	heard := make(chan struct{})
	db.tend <- heard
	<-heard
}

// SealHeader puts the right checksum into a header.
func SealHeader(b []byte) {
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], crcTable))
}
