"""The sum of many sites' numbers, which reveals no single site's values, counts or modalities.

After Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), with keepers that each site chooses for itself as in Bell et
al. 2020 (doi 10.1145/3372297.3417885), and with release by block. Every site sends every block of numbers in the same
shape, zeros where it has nothing, and one bit a block that says whether it has (is a HOLDER). Five stages:

1. ADVERTISE. A site signs fresh keys and commitments to two seeds with its roster key.
2. SHARE. Each site chooses KEEPERS, in a small federation all sites, and gives each a Shamir share of its mask key and
   of both seeds, sealed for that site alone.
3. MASK. Sites are told who chose whom. A site adds its seeds' masks and, with each site that it chose or that chose it,
   a mask that the other takes away; bits have their own masks. It signs the bits and all choices.
4. COUNT. For a site whose input came, each keeper gives all sites, sealed, its share of the seed of that site's bits'
   mask; for one whose input did not come, it gives the server its share of that site's mask key.
5. UNMASK. Each site checks that enough keepers of every site were told of the same inputs (the consistency check of
   Bonawitz et al., section 6), recovers the seeds, and adds up the others' signed bits to how many sites hold each
   block. It gives its masks of the blocks that `min_holders` sites or more hold; for sites that went silent since,
   shares of their seed. Repeated as more go silent. The server, which has no seed, learns which blocks were released
   and no count.

Numbers are integers modulo 2^64 (permmoe.federated.fixed_point), bits modulo 2^32. docs/threat-model.md says what
this promises. No file here does any I/O.

| file | holds |
|---|---|
| `session` | the session, the keys that sites advertise for it, its participants, the names and sizes of blocks |
| `neighbourhood`, `tails` | how many keepers a site has, and the probabilities that say so |
| `choices` | who keeps shares of whose secrets |
| `exchanged` | what sites and server give one another from stage 3 on |
| `site_sum`, `server_sum` | the two sides, stage by stage |
| `count_shares`, `counting` | what sites seal for one another in stage 4, and the count of holders |
| `shamir`, `recovery` | shares of secrets; the secrets of sites that went silent |
| `masked_vector`, `masks`, `signatures` | masks on the vector of numbers; keys and envelopes; signatures |
| `messages`, `blocks` | Flower's records of all that; what blocks a training and an evaluation are made of |
"""
