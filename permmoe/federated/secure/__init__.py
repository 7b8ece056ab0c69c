"""The sum of many sites' numbers, which reveals no single site's values, counts or modalities.

After Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), with release by block. Every site sends every block of numbers
in the same shape, zeros where it has nothing, and one bit a block that says whether it has (is a HOLDER). Five stages:

1. ADVERTISE. A site signs fresh keys and commitments to two seeds with its roster key.
2. SHARE. Each site gives every other a Shamir share of its mask key and of both seeds, sealed for that site alone.
3. MASK. A site adds its seeds' masks and, with each peer, a mask that the peer takes away; bits have their own masks.
4. COUNT. For a site whose input came, each other gives its peers, sealed, its share of the seed of that site's bits'
   mask; for one whose input did not come, it gives the server its share of that site's mask key.
5. UNMASK. Each site recovers the seeds, adds up the others' signed bits to how many sites hold each block, and gives
   its masks of the blocks that `min_holders` sites or more hold; for sites that went silent since, shares of their
   seed. Repeated as more go silent. The server, which has no seed, learns which blocks were released and no count.

Numbers are integers modulo 2^64 (permmoe.federated.fixed_point), bits modulo 2^32. docs/threat-model.md says what
this promises. No file here does any I/O.

| file | holds |
|---|---|
| `session` | the session, the keys that sites advertise for it, its participants, the names and sizes of blocks |
| `exchanged` | what sites and server give one another from stage 3 on |
| `site_sum`, `server_sum` | the two sides, stage by stage |
| `count_shares`, `counting` | the shares that sites seal for one another in stage 4, and the count of holders |
| `masked_vector`, `masks`, `signatures` | masks on the vector of numbers; keys and shares; signatures |
| `messages`, `blocks` | Flower's records of all that; what blocks a training and an evaluation are made of |
"""
