package sample

import "strings"

// The vocabulary of the sample rows. With words drawn from it, the more common
// ones more often, the text compresses about as well as what people write.
var (
	firstNames = strings.Fields(`Ada Agnes Ahmed Alice Amara Ana Anders Anika Arjun Astrid Aylin Beatriz Ben Bruno
		Camille Carla Chen Chiara Claire Daan David Diego Elena Emil Emma Erik Eva Fatima Felix Finn Freya Gabriel
		Grace Hana Hannah Henrik Hugo Ibrahim Ida Ines Ingrid Isaac Ivan Jakub Jana Jasper Joana João Jonas Julia
		Kaito Karin Kenji Klara Lars Laura Layla Leo Lena Liam Lin Lotte Lucía Lukas Maja Malik Marco María Mateo
		Mei Mia Milan Mina Nadia Nils Noah Noor Nora Olga Omar Oskar Paula Pavel Petra Priya Rafael Rana Rosa Ruth
		Sami Sara Simon Sofia Stefan Tara Theo Tomás Uma Valentina Viktor Wanda Xin Yara Yuki Zoe Zofia`)
	lastNames = strings.Fields(`Abe Almeida Andersen Bakker Bauer Becker Bergström Bianchi Brown Carvalho Castro Chen
		Clark Costa Dahl Davies Demir Diaz Dubois Eriksen Evans Fernández Ferrari Fischer García Gómez Gupta Haddad
		Hansen Hernández Hoffmann Horváth Hughes Ito Ivanova Jansen Jensen Johansson Jones Kaya Khan Kim Klein
		Kowalski Kumar Larsen Lee Lewis Lindberg López Maier Martin Martínez Meyer Moreau Müller Nakamura Nguyen
		Nielsen Novák O'Brien Okafor Olsen Patel Pereira Petrov Popescu Ramírez Richter Rossi Ruiz Santos Sato
		Schmidt Schneider Silva Singh Smith Svensson Takahashi Tanaka Taylor Thomas Tóth Vargas Visser Wagner Walker
		Weber Williams Wilson Wójcik Wright Yamamoto Yılmaz Young Zhang Zimmermann`)
	companyWords = strings.Fields(`Acorn Alpine Amber Anchor Arrow Aspen Atlas Beacon Birch Blue Bridge Bright Canyon
		Cedar Circle Clear Cobalt Comet Compass Copper Coral Crest Crown Delta Eagle Echo Elm Ember Falcon Fern
		First Forest Garnet Glacier Golden Granite Green Harbor Hazel Horizon Indigo Iron Ivory Jade Juniper Lake
		Lantern Linden Lotus Lunar Maple Marble Meadow Mercury Mosaic North Nova Oak Ocean Onyx Orchard Pacific
		Pearl Pine Pioneer Prairie Quartz Raven Red Ridge River Rowan Sable Sage Sierra Silver Solar Spruce Sterling
		Stone Summit Sunrise Swift Terra Thistle Tidal Timber Topaz Union Vale Vector Velvet Vertex Violet Vista
		Willow Wren Zenith`)
	companyKinds = strings.Fields(`AB Analytics BV Bakery Brothers Clinic Coffee Consulting Dental Design Electric Foods
		Freight Furniture GmbH Group Hotels Inc Instruments Labs Legal Ltd Logistics Media Optics Partners Pharma
		Printing Robotics SA Sports Studio Systems Textiles Tools Travel Ventures Works`)
	cities = strings.Fields(`Amsterdam Antwerp Athens Austin Barcelona Berlin Bilbao Bogotá Bologna Boston Bristol Brno
		Brussels Budapest Chicago Cologne Copenhagen Dakar Denver Dresden Dublin Edinburgh Florence Gdańsk Geneva
		Ghent Glasgow Gothenburg Graz Hamburg Helsinki Istanbul Kraków Kyoto Leeds Leipzig Lille Lima Lisbon Ljubljana
		London Lyon Madrid Malmö Manchester Marseille Melbourne Milan Montréal Munich Nairobi Naples Nice Osaka Oslo
		Paris Porto Prague Quito Riga Rome Rotterdam Salzburg Santiago Seattle Seoul Seville Sofia Stockholm Sydney
		Tallinn Tokyo Toronto Toulouse Trieste Turin Utrecht Valencia Vienna Vilnius Warsaw Wellington Zagreb Zürich`)
	streets = strings.Fields(`Abbey Bakers Bridge Castle Cathedral Chapel Cherry Church Court Dock Elm Field Fountain
		Garden George Grove Harbour High Hill King Lake Lime Linden Long Lower Market Meadow Mill New North Oak Old
		Orchard Park Poplar Priory Queen Railway River Rose School South Spring Station Stone Temple Upper Victoria
		Walnut Water Well West Willow Windmill York`)
	productWords = strings.Fields(`adjustable backpack ballpoint bamboo bench blanket bottle bowl box brush bucket cabinet
		cable camera candle canvas case ceramic chair charger clamp clock coat compact copper cotton cup cushion desk
		display drawer drill dual dust fabric fan filter folding frame garden glass glove hammer handle heater holder
		hook insulated jacket keyboard ladder lamp leather light linen magnetic marker mat metal mini mirror monitor
		mouse mug notebook oak organiser outdoor oven pan panel paper pen pillow planter plate portable printer pump
		rack radio recycled rope rug saw scale screen set shelf silicone socket sofa solar speaker stand steel stool
		storage table tape thermal tile tool towel tray tripod umbrella vacuum vase wall watch water wheel wireless
		wood wool wrench`)
	// words begins with the most common ones: sentence draws from its beginning
	// more often.
	words = strings.Fields(`the to and of a in is for that on we it with be this as are have not by from or at was our
		will can if you has they but all your please which an been there no their would were what one when more so
		about up out new also time any other than may some only after order then its should these first now could us
		customer invoice delivery payment account before because through need over sent send next week day today again
		since still team price change request issue number date confirm confirmed shipping product available update
		updated received contact question address service support system error report file agreed contract renewal
		discount quote budget meeting call called answer details attached copy original missing damaged replaced
		returned refund warehouse stock item items quantity units shipment carrier tracking package label customs
		invoice credit debit balance statement overdue reminder transfer bank card expired declined approved pending
		cancelled subscription plan upgrade downgrade monthly yearly trial period access login password reset email
		domain settings permission role user admin export import spreadsheet column row template document signature
		signed scanned page version draft final review reviewed comment feedback proposal project milestone deadline
		schedule appointment calendar holiday office department manager colleague assistant director supplier vendor
		partner distributor retailer branch region country local international legal tax compliance audit policy
		privacy consent regulation certificate warranty repair replacement maintenance inspection installation setup
		configuration integration connection server backup performance slow timeout failed failure retry success
		completed finished started begun planned postponed moved shifted early late morning afternoon evening night
		monday tuesday wednesday thursday friday january february march april june july august september october
		november december quarter season summer winter spring autumn large small medium heavy light blue green black
		white red wooden metal plastic glass fragile urgent important normal low high priority escalate escalated
		resolved reopened closed opened waiting blocked assigned unassigned transferred forwarded replied asked told
		explained suggested offered accepted rejected declined considered decided noticed found looked searched
		checked tested verified compared measured counted weighed packed unpacked loaded unloaded stored picked sorted
		labelled printed posted collected delivered handed placed left right front back door gate entrance reception
		parking street building floor room desk phone mobile message voicemail conversation discussion agreement
		disagreement complaint compliment suggestion idea improvement feature bug behaviour expected unexpected
		strange usual unusual sometimes always never often rarely perhaps probably certainly unfortunately hopefully
		apparently immediately shortly eventually meanwhile otherwise however therefore although unless until while
		during within without between among against toward along across behind beyond despite except instead almost
		already enough quite rather very too much many several few most least less half double twice once nothing
		something anything everything nobody somebody anybody everybody where why how who whose whom each every both
		either neither another such same different similar previous current following last latest recent old young
		long short full empty whole part partial total amount value cost fee charge rate percent average minimum
		maximum limit threshold target goal result outcome effect reason cause purpose example case situation problem
		solution option choice alternative possibility chance risk benefit advantage disadvantage difference
		relationship responsibility opportunity experience knowledge information material equipment machine device
		component assembly production manufacturing quality control standard specification requirement drawing
		prototype sample batch series model type category group list table chart figure picture photo video link
		website page form field button menu screen window browser application program software hardware network
		database record entry history archive folder storage capacity volume weight length width height depth size
		colour shape surface edge corner centre middle side top bottom inside outside near far above below under`)
)

// events are what an activity log records.
var events = strings.Fields(`invoice.created invoice.sent invoice.paid order.placed order.shipped order.cancelled
	payment.received payment.failed customer.created customer.updated ticket.opened ticket.closed user.login
	user.logout document.uploaded document.signed stock.adjusted subscription.renewed`)

var userAgents = []string{
	"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
	"Mozilla/5.0 (Macintosh; Intel Mac OS X 14_4) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
	"Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
	"Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
	"python-requests/2.31.0",
}
