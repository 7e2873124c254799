"""Interim LRU cache."""
from __future__ import annotations
from collections import OrderedDict

class LruCache:
    def __init__(self, blocks): self.c=blocks; self.d=OrderedDict(); self.log=[]
    def match(self, hashes):
        n=0
        for h in hashes:
            if h not in self.d: break
            n+=1
        return n
    def start(self, hashes): return self.match(hashes)
    def computed(self, hashes):
        d=self.d
        hs=hashes[:self.c]
        for h in reversed(hs):
            if h not in d: self.log.append((1,h))
            d[h]=None; d.move_to_end(h)
        while len(d)>self.c:
            self.log.append((0,d.popitem(last=False)[0]))
    def end(self, hashes): pass
    def events(self):
        l=self.log; self.log=[]; return l
