package wasm

// echo is the small guest, by hand: it writes the channel's Hello and then copies its input to its output, which makes a Ping come back as
// it went. In text form:
//
//	(module
//	  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
//	  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
//	  (memory (export "memory") 1)
//	  (data (i32.const 0) "\40\00\00\00\06\00\00\00")     ;; iovec: the Hello at 64, 6 bytes
//	  (data (i32.const 8) "\80\00\00\00\00\04\00\00")     ;; iovec: 1024 bytes at 128
//	  (data (i32.const 64) "\01\00\00\00\01\01")          ;; the Hello
//	  (func (export "_start")
//	    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
//	    (loop $more
//	      (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
//	      (if (i32.load (i32.const 16))                   ;; bytes that were read; 0 is the end
//	        (then
//	          (i32.store (i32.const 20) (i32.const 128))  ;; iovec at 20: what was read
//	          (i32.store (i32.const 24) (i32.load (i32.const 16)))
//	          (drop (call $write (i32.const 1) (i32.const 20) (i32.const 1) (i32.const 28)))
//	          (br $more))))))
var echo = []byte("\x00asm\x01\x00\x00\x00" +
	// types: 0 is fd_read's and fd_write's, 1 is _start's
	"\x01\x0c\x02" + "\x60\x04\x7f\x7f\x7f\x7f\x01\x7f" + "\x60\x00\x00" +
	// imports
	"\x02\x44\x02" + "\x16wasi_snapshot_preview1\x07fd_read\x00\x00" + "\x16wasi_snapshot_preview1\x08fd_write\x00\x00" +
	// one function, of type 1
	"\x03\x02\x01\x01" +
	// a memory of one page
	"\x05\x03\x01\x00\x01" +
	// exports
	"\x07\x13\x02" + "\x06memory\x02\x00" + "\x06_start\x00\x02" +
	// code: 1 body of 66 bytes without locals
	"\x0a\x44\x01\x42\x00" +
	"\x41\x01\x41\x00\x41\x01\x41\x10\x10\x01\x1a" +
	"\x03\x40" +
	"\x41\x00\x41\x08\x41\x01\x41\x10\x10\x00\x1a" +
	"\x41\x10\x28\x02\x00" +
	"\x04\x40" +
	"\x41\x14\x41\x80\x01\x36\x02\x00" +
	"\x41\x18\x41\x10\x28\x02\x00\x36\x02\x00" +
	"\x41\x01\x41\x14\x41\x01\x41\x1c\x10\x01\x1a" +
	"\x0c\x01" +
	"\x0b\x0b\x0b" +
	// data
	"\x0b\x27\x03" +
	"\x00\x41\x00\x0b\x08\x40\x00\x00\x00\x06\x00\x00\x00" +
	"\x00\x41\x08\x0b\x08\x80\x00\x00\x00\x00\x04\x00\x00" +
	"\x00\x41\xc0\x00\x0b\x06\x01\x00\x00\x00\x01\x01")
