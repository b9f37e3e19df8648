package broadcast

import (
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// How neighbours are scored (gossipsub v1.1, "Peer scoring"). An honest node forwards nothing that it has not verified, so what cannot be
// true (a signature, a form) comes only from who made it or is broken: the second one puts him on the gray list. What two honest nodes may see
// differently - age, rights, rates, what was taken already - costs nobody his score by itself.
const (
	seenTTL = 30 * time.Second // gossip goes around for 5 heartbeats; what comes later is found by the authors' windows

	thresholdGossip   = -20  // no gossip is exchanged below
	thresholdPublish  = -50  // nothing of ours is sent to it below
	thresholdGraylist = -100 // nothing is taken from it below
	invalidWeight     = -35  // times the square of the invalid ones: -35, -140
	topicCap          = 20   // what good conduct can be worth in all topics: less than one invalid message costs
)

func scoreThresholds() *pubsub.PeerScoreThresholds {
	return &pubsub.PeerScoreThresholds{
		GossipThreshold: thresholdGossip, PublishThreshold: thresholdPublish, GraylistThreshold: thresholdGraylist,
		AcceptPXThreshold: topicCap, OpportunisticGraftThreshold: 2,
	}
}

func scoreParams(own func(peer.ID) float64) *pubsub.PeerScoreParams {
	loopback := []*net.IPNet{
		{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)},
		{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	}
	return &pubsub.PeerScoreParams{
		Topics:           map[string]*pubsub.TopicScoreParams{},
		TopicScoreCap:    topicCap,
		AppSpecificScore: own, AppSpecificWeight: 1,
		// Many nodes of an office may share an address; 61 are on the gray list.
		IPColocationFactorWeight: -1, IPColocationFactorThreshold: 50, IPColocationFactorWhitelist: loopback,
		BehaviourPenaltyWeight: -10, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: pubsub.ScoreParameterDecay(10 * time.Minute),
		DecayInterval: time.Second, DecayToZero: 0.01,
		RetainScore: 30 * time.Minute,
		SeenMsgTTL:  seenTTL,
	}
}

// topicScore is the same for every topic. How many messages a topic has is not known, so none is expected of anybody (P3 is off).
func topicScore() *pubsub.TopicScoreParams {
	return &pubsub.TopicScoreParams{
		TopicWeight:      1,
		TimeInMeshWeight: 0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 600, // 6 after ten minutes
		FirstMessageDeliveriesWeight: 0.1, FirstMessageDeliveriesDecay: pubsub.ScoreParameterDecay(time.Minute), FirstMessageDeliveriesCap: 100,
		InvalidMessageDeliveriesWeight: invalidWeight, InvalidMessageDeliveriesDecay: pubsub.ScoreParameterDecay(30 * time.Minute),
		MeshMessageDeliveriesDecay: 0.5, MeshMessageDeliveriesCap: 1, MeshMessageDeliveriesThreshold: 1,
		MeshMessageDeliveriesActivation: time.Minute, MeshFailurePenaltyDecay: 0.5,
	}
}

// gossipParams are gossipsub's own, but for what is said beside them.
func gossipParams() pubsub.GossipSubParams {
	p := pubsub.DefaultGossipSubParams()
	p.IDontWantMessageThreshold = 16 << 10 // below that, saying that we have it costs more than getting it again
	p.MaxIDontWantMessages = 2000          // a heartbeat; two publishers at a thousand envelopes a second
	return p
}

// protocolHas says which features a protocol of ours has: both have the mesh and scores, 1.2 has IDONTWANT.
func protocolHas(f pubsub.GossipSubFeature, p protocol.ID) bool {
	switch f {
	case pubsub.GossipSubFeatureMesh, pubsub.GossipSubFeaturePX:
		return p == protocols[0] || p == protocols[1]
	case pubsub.GossipSubFeatureIdontwant:
		return p == protocols[0]
	}
	return false
}
