package p2p

import "strings"

// wordList are 256 words, a byte each: short, known to most, and told apart by their first four letters. The order is part of the format of
// codes (docs/format/guard-protocol.md), and never changes.
var wordList = strings.Fields(`
acid acorn alarm album amber angle ankle apple april apron arena armor arrow atlas attic audio autumn axis bacon badge
baker balcony bamboo banjo barrel basin basket beacon beaver bench berry bicycle bishop bison blanket blossom bonfire
border bottle boulder branch brass bread bridge bronze brother bucket buffalo butter cabin cable cactus camel canal
candle canyon carbon carpet castle cedar cello cement chapel cherry chimney cinema circle citrus clay cliff clock
cloud clover cobalt coffee comet compass copper coral cotton cousin cradle crane crater cricket crown crystal curtain
cypress daisy dancer decimal denim desert diamond dinner doctor dolphin domino donkey dragon drum eagle earth easel
echo eclipse elbow elder ember emerald engine envelope equator fabric falcon farmer feather fennel fiddle finger fjord
flame flute forest fossil fountain fox frost galaxy garden garlic geyser ginger glacier globe goblet gondola granite
grape gravel guitar hammer harbor harvest hazel helmet heron hickory honey horizon hotel husky iceberg icon igloo
indigo insect iris island ivory jacket jaguar jasmine jelly jigsaw jungle juniper kayak kernel kettle kiosk kitchen
kiwi ladder lagoon lantern lapis laurel lemon library lily linen lizard lobster lotus lumber lunar magnet mango maple
marble meadow melon meteor mirror monsoon mosaic motor muffin museum napkin nectar needle nickel noodle north nutmeg
oasis ocean olive onion opal orbit orchid otter oxygen oyster paddle panda paper parrot pebble pelican pepper piano
pilot planet plum polar quartz rabbit radio rainbow raven ribbon river robin rocket saddle saffron salmon sandal
sapphire satin scarf shadow silver spruce sugar sunset tiger timber tulip velvet violin
`)

// wordsOf are bytes as words.
func wordsOf(b []byte, between string) string {
	out := make([]string, len(b))
	for i, c := range b {
		out[i] = wordList[c]
	}
	return strings.Join(out, between)
}

// wordByte is the byte of a word, of which the first four letters will do.
func wordByte(word string) (byte, bool) {
	word = strings.ToLower(word)
	for i, w := range wordList {
		if w == word || len(word) >= 4 && strings.HasPrefix(w, word) {
			return byte(i), true
		}
	}
	return 0, false
}
