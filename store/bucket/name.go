package bucket

import (
	"strings"
)

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.=+,@"

// escape is a part of a key as the name of a file that every system takes: %XX for all but
// plain bytes, for a dot in front (those are our own temporary files) or at the end, and
// for the first letter of the names that Windows keeps for devices.
func escape(part string) string {
	const hex = "0123456789ABCDEF"
	device := reserved(part)
	var b strings.Builder
	for i := range len(part) {
		c := part[i]
		dot := c == '.' && (i == 0 || i == len(part)-1)
		if strings.IndexByte(plain, c) >= 0 && !dot && (i > 0 || !device) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// unescape is escape's inverse; false for a name that escape does not make, which is not ours.
func unescape(name string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", false
		}
		hi, lo := unhex(name[i+1]), unhex(name[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), escape(b.String()) == name
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// reserved says whether Windows takes the name for a device, whatever its case and extension.
func reserved(part string) bool {
	base, _, _ := strings.Cut(part, ".")
	switch base = strings.ToUpper(base); base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	return len(base) == 4 && (base[:3] == "COM" || base[:3] == "LPT") && base[3] >= '0' && base[3] <= '9'
}
