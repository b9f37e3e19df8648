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

// SealNow ends the segment that is being written, so that it is handed over.
func (db *DB) SealNow() {
	db.mu.Lock()
	db.wantSeal = db.active != nil
	db.mu.Unlock()
	db.Tend()
}

// FlushErr is why the last flush failed.
func (db *DB) FlushErr() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.flushErr
}

// MaxGatherRows is how many rows a roll-up gathers before it merges them.
const MaxGatherRows = maxGatherRows

// Used is the memory that the answer takes, as accounted.
func (g *RollupGather) Used() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used
}

// MaxChangeKeys is how many services and names a watch tells from each other.
const MaxChangeKeys = maxChangeKeys
