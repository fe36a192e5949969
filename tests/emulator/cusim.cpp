// cusim.cpp - fiber scheduler, race/bounds/uninit checker, access counter. Compiled WITHOUT -fsanitize=thread.
#include "../../csrc/cuda/port.h"
#include <sys/mman.h>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <string>
#include <map>
#include <set>
#include <algorithm>
#include <unordered_map>
#include <link.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cusim {
// ---------------- configuration / report ----------------
struct Config { uint32_t seed = 1; int policy = 0; int check = 1; int stats = 0; int async_late = 1; int max_smem = 227 * 1024; } cfg;
static std::vector<std::string> errors; static std::set<std::string> seen; static bool failed;
static uint64_t n_access, n_switch, n_threads, n_mma;
static uint32_t rng; static inline uint32_t rnd() { rng ^= rng << 13; rng ^= rng >> 17; rng ^= rng << 5; return rng; }
static uintptr_t mod_base;
static int cb(dl_phdr_info* i, size_t, void* d) { uintptr_t a = (uintptr_t)d; for (int k = 0; k < i->dlpi_phnum; k++) { auto& p = i->dlpi_phdr[k];
  if (p.p_type == PT_LOAD && a >= i->dlpi_addr + p.p_vaddr && a < i->dlpi_addr + p.p_vaddr + p.p_memsz) { mod_base = i->dlpi_addr; return 1; } } return 0; }
struct Range { uintptr_t lo, hi; }; static std::vector<Range> modsegs;
static int cb2(dl_phdr_info* i, size_t, void*) { if (i->dlpi_addr == mod_base) for (int k = 0; k < i->dlpi_phnum; k++) { auto& p = i->dlpi_phdr[k];
  if (p.p_type == PT_LOAD) modsegs.push_back({i->dlpi_addr + p.p_vaddr, i->dlpi_addr + p.p_vaddr + p.p_memsz}); } return 0; }
static void note(const std::string& key, const std::string& msg) { if (seen.insert(key).second && errors.size() < 50) errors.push_back(msg); }
static std::string fmt(const char* f, ...) { char b[512]; va_list a; va_start(a, f); vsnprintf(b, sizeof b, f, a); va_end(a); return b; }
// ---------------- fibers ----------------
enum { READY, WBLOCK, WWARP, DONE };
struct Fiber { void* sp; char* stk; ThreadCtx c; int state, t, warp, lane; void* pc; Op op; unsigned mask; int k1, k2; const void* in; void* out; uint64_t val, res;
  std::vector<uint32_t> cnt; struct Cp { void* s; const void* g; int b, sb; int pcid; }; std::vector<std::vector<Cp>> grp; std::vector<Cp> open; void* fake; };
static const size_t STK = 256 * 1024;
static std::vector<Fiber> fb; static int nthr, nwarp, nwait, ndone; static std::vector<int> ready; static size_t rhead;
static Fiber* cf; ThreadCtx* cur; Idx g_bdim, g_gdim; static void* sched_sp; static void (*kfn)(void*); static void* karg; static uintptr_t host_lo, host_hi;
#if defined(__SANITIZE_ADDRESS__)
static void* sched_fake; static const void* sched_bot; static size_t sched_sz;
#endif
extern "C" void cusim_switch(void** save, void* to);
asm(R"(
.text
.globl cusim_switch
.type cusim_switch,@function
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_switch,.-cusim_switch
)");
static void to_sched(bool dying) { n_switch++; Fiber* f = cf; cur = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(dying ? nullptr : &f->fake, sched_bot, sched_sz);
#endif
  cusim_switch(&f->sp, sched_sp);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f->fake, nullptr, nullptr);
#endif
  (void)dying; }
static void entry() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &sched_bot, &sched_sz);
#endif
  kfn(karg); cf->state = DONE; ndone++; to_sched(true); abort(); }
void fail(const char* f, ...) { char b[512]; va_list a; va_start(a, f); vsnprintf(b, sizeof b, f, a); va_end(a);
  std::string m = b; if (cf) m += fmt(" [block (%u,%u,%u) thread (%u,%u,%u)]", cf->c.bid.x, cf->c.bid.y, cf->c.bid.z, cf->c.tid.x, cf->c.tid.y, cf->c.tid.z);
  note(m, m); failed = true; if (cur) { cf->state = DONE; to_sched(false); } fprintf(stderr, "%s\n", m.c_str()); abort(); }
static std::string where(const void* pc) { return fmt("@%#lx", (unsigned long)((uintptr_t)pc - 1 - mod_base)); }
// ---------------- pc interning ----------------
static std::vector<const void*> pcs; static std::vector<std::pair<const void*, int>> ptab(1 << 14);
static inline int intern(const void* pc) { size_t h = ((uintptr_t)pc * 0x9E3779B97F4A7C15ull) >> 50; for (;; h = (h + 1) & 0x3fff) { if (ptab[h].first == pc) return ptab[h].second;
  if (!ptab[h].first) { ptab[h] = {pc, (int)pcs.size()}; pcs.push_back(pc); return ptab[h].second; } } }
// ---------------- shadow ----------------
struct Acc { uint32_t blk, epoch, clk; int32_t tid; int32_t pc; };
struct Cell { Acc w, r0, r1; uint8_t valid, init, watomic; int16_t pend; };
static const int GR = 1;
struct Region { uintptr_t lo, hi; std::vector<Cell> sh; std::string name; bool shared; void* map; size_t maplen; };
static std::vector<Region*> regs; static Region* sm; static Region* last; static size_t sm_used;
static uint32_t g_blk = 1, launch_first, g_epoch = 1; static std::vector<uint32_t> known; // [warp][32][32]
static inline uint32_t& kn(int w, int a, int b) { return known[(w * 32 + a) * 32 + b]; }
static inline bool unordered(const Acc& p, int tid) { if (p.tid < 0 || p.blk < launch_first) return false; if (p.blk != g_blk) return true; if (p.epoch != g_epoch || p.tid == tid) return false;
  int w = tid >> 5; if (p.tid >> 5 == w) return kn(w, tid & 31, p.tid & 31) < p.clk; return true; }
static Region* find(uintptr_t a) { if (last && a >= last->lo && a < last->hi) return last; for (auto* r : regs) if (a >= r->lo && a < r->hi) return last = r; return nullptr; }
struct Rec { uint64_t a; int32_t pc; uint32_t k; uint8_t lane, size, kind; }; // kind: bit0 write, bit1 shared, bit2 ldmatrix
static std::vector<std::vector<Rec>> recs;
struct Stat { uint64_t req = 0, lanes = 0, bytes = 0, sectors = 0, waves = 0, ideal = 0; int size = 0, kind = 0; }; static std::map<int, Stat> stats; static std::set<uint64_t> usec_r, usec_w; static uint64_t blk_unique;
static std::set<uint64_t> bsec;
static void race(const char* k, Region* r, uintptr_t a, const Acc& p, const Acc& n) {
  note(fmt("%s%d%d", k, p.pc, n.pc), fmt("RACE %s on %s '%s' +%lu: block %u thread %d %s vs block %u thread %d %s", k, r->shared ? "shared" : "global", r->name.c_str(), (unsigned long)(a - r->lo), p.blk - launch_first, p.tid, where(pcs[p.pc]).c_str(), n.blk - launch_first, n.tid, where(pcs[n.pc]).c_str())); }
static void touch(Region* r, uintptr_t a, size_t n, bool wr, bool at, Acc me) {
  for (uintptr_t i = (a - r->lo) / GR; i <= (a + n - 1 - r->lo) / GR; i++) { Cell& c = r->sh[i];
    if (!c.valid) fail("OUT-OF-BOUNDS %s of %zu bytes in shared arena at +%lu %s", wr ? "write" : "read", n, (unsigned long)(a - r->lo), where(pcs[me.pc]).c_str());
    if (c.pend) note(fmt("pend%d", me.pc), fmt("ASYNC access to cp.async destination before its wait: '%s' +%lu by thread %d %s", r->name.c_str(), (unsigned long)(a - r->lo), me.tid, where(pcs[me.pc]).c_str()));
    if (!wr && !c.init) note(fmt("uninit%d", me.pc), fmt("UNINITIALISED read of %zu bytes from %s '%s' +%lu by thread %d %s", n, r->shared ? "shared" : "global", r->name.c_str(), (unsigned long)(a - r->lo), me.tid, where(pcs[me.pc]).c_str()));
    if (unordered(c.w, me.tid) && !(at && c.watomic)) race(wr ? "write-write" : "read-after-write", r, a, c.w, me);
    if (wr) { if (!at) { if (unordered(c.r0, me.tid)) race("write-after-read", r, a, c.r0, me); else if (unordered(c.r1, me.tid)) race("write-after-read", r, a, c.r1, me); }
      c.w = me; c.init = 1; c.watomic = at; }
    else if (c.r0.tid != me.tid || c.r0.blk != me.blk) { c.r1 = c.r0; c.r0 = me; } else c.r0 = me; } }
static bool in_copy;
static inline void hook(const void* p, size_t n, bool wr, bool at, const void* pc) {
  if (!cur || !cfg.check) return; uintptr_t a = (uintptr_t)p; Fiber* f = cf;
  if (a >= (uintptr_t)f->stk && a < (uintptr_t)f->stk + STK) return;
  n_access++; Region* r = find(a);
  if (!r) { if (a >= host_lo && a < host_hi) return; for (auto& s : modsegs) if (a >= s.lo && a + n <= s.hi) return;
    fail("OUT-OF-BOUNDS %s of %zu bytes at %p (no device allocation) %s", wr ? "write" : "read", n, p, where(pc).c_str()); }
  if (a + n > r->hi) fail("OUT-OF-BOUNDS %s of %zu bytes at end of '%s' +%lu %s", wr ? "write" : "read", n, r->name.c_str(), (unsigned long)(a - r->lo), where(pc).c_str());
  if (a % n && (n & (n - 1)) == 0) fail("MISALIGNED %zu-byte access at %p %s", n, p, where(pc).c_str());
  int id = intern(pc);
  touch(r, a, n, wr, at, Acc{g_blk, g_epoch, kn(f->warp, f->lane, f->lane), f->t, id});
  if (cfg.stats && !in_copy) { int key = id * 2 + r->shared; if ((int)f->cnt.size() <= key) f->cnt.resize(key + 64); recs[f->warp].push_back(Rec{a, key, f->cnt[key]++, (uint8_t)f->lane, (uint8_t)n, (uint8_t)((wr ? 1 : 0) | (r->shared ? 2 : 0))}); } }
void access(const void* p, size_t n, bool w, bool a, void* pc) { hook(p, n, w, a, pc); }
// ---------------- access statistics ----------------
static int bank_waves(const std::vector<std::pair<uint64_t, int>>& v) { // one phase: max distinct words per bank
  std::set<uint64_t> words; for (auto& x : v) for (uint64_t w = x.first / 4; w <= (x.first + x.second - 1) / 4; w++) words.insert(w); int cnt[32] = {}, m = 1; for (auto w : words) m = std::max(m, ++cnt[w & 31]); return m; }
static void flush_stats() { for (auto& v : recs) { std::sort(v.begin(), v.end(), [](const Rec& a, const Rec& b) { return a.pc != b.pc ? a.pc < b.pc : a.k != b.k ? a.k < b.k : a.lane < b.lane; });
  for (size_t i = 0; i < v.size();) { size_t j = i; while (j < v.size() && v[j].pc == v[i].pc && v[j].k == v[i].k) j++;
    Stat& s = stats[v[i].pc]; s.req++; s.lanes += j - i; s.size = v[i].size; s.kind = v[i].kind; for (size_t q = i; q < j; q++) s.bytes += v[q].size;
    if (v[i].kind & 2) { int per = v[i].size >= 16 ? 8 : v[i].size == 8 ? 16 : 32; // lanes per phase
      for (int ph = 0; ph < 32 / per; ph++) { std::vector<std::pair<uint64_t, int>> x; for (size_t q = i; q < j; q++) if (v[q].lane / per == ph) x.push_back({v[q].a, v[q].size}); if (x.empty()) continue; s.waves += bank_waves(x); s.ideal++; } }
    else { std::set<uint64_t> sec, ub; uint64_t b = 0; for (size_t q = i; q < j; q++) { for (uint64_t t = v[q].a; t < v[q].a + v[q].size; t++) ub.insert(t); for (uint64_t t = v[q].a / 32; t <= (v[q].a + v[q].size - 1) / 32; t++) sec.insert(t); }
      s.sectors += sec.size(); b = ub.size(); s.ideal += b; for (auto t : sec) { (v[i].kind & 1 ? usec_w : usec_r).insert(t); if (!(v[i].kind & 1)) bsec.insert(t); } }
    i = j; } v.clear(); } }
// ---------------- collectives ----------------
static void release_block() { const void* pc = nullptr; bool div = false; for (auto& f : fb) if (f.state == WBLOCK) { if (pc && f.pc != pc) div = true; pc = f.pc; }
  if (div) note("divbar" + where(pc), "DIVERGENT __syncthreads: threads of one block wait at different barriers, one is " + where(pc));
  if (ndone) note("exitbar" + where(pc), fmt("__syncthreads reached by %d of %d threads (the others exited) %s", nwait, nthr, where(pc).c_str()));
  g_epoch++; nwait = 0; if (cfg.stats) flush_stats(); for (auto& f : fb) if (f.state == WBLOCK) { f.state = READY; ready.push_back(f.t); } }
void sync_block(void* pc) { Fiber* f = cf; f->pc = pc; f->state = WBLOCK; nwait++; to_sched(false); }
static float h2f(uint16_t h, int bf) { if (bf) { uint32_t u = (uint32_t)h << 16; float x; memcpy(&x, &u, 4); return x; } __half_raw r; r.x = h; return __half2float(__half(r)); }
static void complete(int w, unsigned mask) { Fiber* L = &fb[w * 32]; int first = __builtin_ctz(mask); Op op = L[first].op; auto in = [&](int l) { return mask >> l & 1; };
  switch (op) {
  case OP_SYNCWARP: { uint32_t m[32]; for (int k = 0; k < 32; k++) { m[k] = 0; for (int l = 0; l < 32; l++) if (in(l)) m[k] = std::max(m[k], kn(w, l, k)); }
    for (int l = 0; l < 32; l++) if (in(l)) { for (int k = 0; k < 32; k++) kn(w, l, k) = m[k]; kn(w, l, l)++; } break; }
  case OP_SHFL: for (int l = 0; l < 32; l++) if (in(l)) { int W = L[l].k2, seg = l & ~(W - 1), s = L[l].k1 >> 2, j; switch (L[l].k1 & 3) { case 0: j = seg + (s & (W - 1)); break; case 1: j = l - s; if (j < seg) j = l; break; case 2: j = l + s; if (j > seg + W - 1) j = l; break; default: j = l ^ s; if (j > (seg | (W - 1))) j = l; }
      if (!in(j)) { cf = &L[l]; note(fmt("shsrc%p", L[l].pc), fmt("SHUFFLE lane %d reads lane %d, which is not in mask %#x %s", l, j, mask, where(L[l].pc).c_str())); failed = true; L[l].res = 0xdeadbeefdeadbeefull; } else L[l].res = L[j].val; } break;
  case OP_BALLOT: { unsigned b = 0; for (int l = 0; l < 32; l++) if (in(l) && L[l].val) b |= 1u << l; for (int l = 0; l < 32; l++) if (in(l)) L[l].res = b; break; }
  case OP_MMA: { n_mma++; float A[16][16] = {}, B[16][8] = {}; const int kind = L[0].k1, K = kind == 2 ? 8 : 16;
    for (int l = 0; l < 32; l++) { const uint32_t* const* p = (const uint32_t* const*)L[l].in; const uint32_t *a = p[0], *b = p[1]; int g = l >> 2, t = l & 3;
      if (kind == 2) { for (int r = 0; r < 4; r++) { uint32_t u = a[r] & ~0x1fffu; memcpy(&A[g + (r & 1) * 8][t + (r >> 1) * 4], &u, 4); } for (int r = 0; r < 2; r++) { uint32_t u = b[r] & ~0x1fffu; memcpy(&B[t + r * 4][g], &u, 4); } }
      else for (int h = 0; h < 2; h++) { for (int r = 0; r < 4; r++) A[g + (r & 1) * 8][2 * t + h + (r >> 1) * 8] = h2f(a[r] >> (16 * h), kind); for (int r = 0; r < 2; r++) B[2 * t + h + r * 8][g] = h2f(b[r] >> (16 * h), kind); } }
    for (int l = 0; l < 32; l++) { float* d = (float*)L[l].out; int g = l >> 2, t = l & 3;
      for (int i = 0; i < 4; i++) { int row = g + (i >> 1) * 8, col = 2 * t + (i & 1); double s = d[i]; for (int k = 0; k < K; k++) s += (double)A[row][k] * B[k][col]; d[i] = (float)s; } } break; }
  case OP_LDSM: { int n = L[0].k1; std::vector<uint16_t> row(32 * 8); for (int l = 0; l < n * 8; l++) memcpy(&row[l * 8], L[l].in, 16);
    for (int l = 0; l < 32; l++) for (int m = 0; m < n; m++) { int g = l >> 2, t = l & 3; uint16_t e0, e1; if (L[l].k2) { e0 = row[(m * 8 + 2 * t) * 8 + g]; e1 = row[(m * 8 + 2 * t + 1) * 8 + g]; } else { e0 = row[(m * 8 + g) * 8 + 2 * t]; e1 = row[(m * 8 + g) * 8 + 2 * t + 1]; } ((uint32_t*)L[l].out)[m] = e0 | (uint32_t)e1 << 16; } break; }
  default: break; }
  for (int l = 0; l < 32; l++) if (in(l)) { L[l].state = READY; ready.push_back(L[l].t); } }
static void warp_op(Op op, unsigned mask, void* pc) { Fiber* f = cf; f->op = op; f->mask = mask; f->pc = pc; int w = f->warp, lanes = std::min(32, nthr - w * 32);
  if (!(mask >> f->lane & 1)) fail("WARP-OP lane %d is not in its own mask %#x %s", f->lane, mask, where(pc).c_str());
  if (lanes < 32 && mask >> lanes) fail("WARP-OP mask %#x names lanes that do not exist (warp has %d) %s", mask, lanes, where(pc).c_str());
  f->state = WWARP; bool all = true; for (int l = 0; l < lanes; l++) if (mask >> l & 1) { Fiber& o = fb[w * 32 + l]; if (o.state == DONE) fail("WARP-OP mask %#x names lane %d, which has exited %s", mask, l, where(pc).c_str());
    if (o.state != WWARP) { all = false; continue; } if (o.op != op || o.mask != mask) { all = false; } }
  if (all) complete(w, mask); to_sched(false); }
void sync_warp(unsigned m, void* pc) { warp_op(OP_SYNCWARP, m, pc); }
uint64_t shfl(unsigned m, uint64_t v, int s, int w, int k, void* pc) { cf->val = v; cf->k1 = s << 2 | k; cf->k2 = w; Fiber* f = cf; warp_op(OP_SHFL, m, pc); return f->res; }
unsigned ballot(unsigned m, int p, void* pc) { cf->val = p != 0; Fiber* f = cf; warp_op(OP_BALLOT, m, pc); return (unsigned)f->res; }
void mma(float* d, const uint32_t* a, const uint32_t* b, int kind, void* pc) { const void* in[2] = {a, b}; Fiber* f = cf; f->in = in; f->out = d; f->k1 = kind; warp_op(OP_MMA, ~0u, pc); }
void ldmatrix(uint32_t* r, const void* row, int n, int tr, void* pc) { Fiber* f = cf; if (f->lane < n * 8) { hook(row, 16, false, false, pc); Region* g = find((uintptr_t)row); if (cfg.check && (!g || !g->shared)) fail("ldmatrix row is not in shared memory %s", where(pc).c_str()); }
  uint32_t o[4]; f->in = row; f->out = o; f->k1 = n; f->k2 = tr; warp_op(OP_LDSM, ~0u, pc); memcpy(r, o, 4 * n); }
// ---------------- cp.async ----------------
static void mark(void* s, int b, int16_t v) { if (!cfg.check) return; Region* r = find((uintptr_t)s); if (r) for (size_t i = ((uintptr_t)s - r->lo) / GR; i < ((uintptr_t)s - r->lo + b) / GR; i++) r->sh[i].pend = v; }
static void do_copy(const Fiber::Cp& c) { mark(c.s, c.b, 0); in_copy = true; hook(c.s, c.b, true, false, pcs[c.pcid]); in_copy = false; memset(c.s, 0, c.b); memcpy(c.s, c.g, c.sb); }
void cp_async(void* s, const void* g, int b, int sb, void* pc) { if ((uintptr_t)s % b || (sb && (uintptr_t)g % b)) fail("MISALIGNED cp.async %s", where(pc).c_str());
  if (sb) hook(g, sb, false, false, pc); Fiber::Cp c{s, g, b, sb, intern(pc)}; hook(s, b, true, false, pc); mark(s, b, (int16_t)(cf->t + 1)); if (cfg.check) { Region* r = find((uintptr_t)s); (void)r; } if (cfg.async_late) memset(s, 0xff, b); else { memset(s, 0, b); memcpy(s, g, sb); } cf->open.push_back(c); }
void cp_commit() { cf->grp.push_back(cf->open); cf->open.clear(); }
void cp_wait(int n) { auto& g = cf->grp; while ((int)g.size() > n) { for (auto& c : g[0]) do_copy(c); g.erase(g.begin()); } }
// ---------------- shared memory ----------------
static std::unordered_map<const void*, void*> statics; static unsigned char* dynp; static size_t static_bytes;
static void* carve(size_t bytes, size_t align) { size_t o = (sm_used + align - 1) / align * align; sm_used = o + (bytes + 127) / 128 * 128 + 256; if (sm_used > sm->hi - sm->lo) fail("emulated shared arena is full"); unsigned char* p = (unsigned char*)sm->lo + o; memset(p, 0xff, bytes); for (size_t i = o / GR; i < (o + bytes) / GR; i++) { sm->sh[i] = Cell{{0,0,0,-1,0},{0,0,0,-1,0},{0,0,0,-1,0},1,0,0,0}; } return p; }
unsigned char* dyn_smem() { return dynp; }
void* static_smem(const void* key, size_t bytes, size_t align, const char*) { auto it = statics.find(key); if (it != statics.end()) return it->second; void* p = carve(bytes, align); static_bytes += bytes; statics[key] = p; return p; }
// ---------------- launch ----------------
static void run_block(Idx b, size_t smem) { g_blk++; g_epoch++; statics.clear(); static_bytes = 0; sm_used = 256; for (auto& c : sm->sh) c.valid = 0; dynp = smem ? (unsigned char*)carve(smem, 128) : nullptr;
  std::fill(known.begin(), known.end(), 0); ready.clear(); rhead = 0; nwait = ndone = 0;
  for (int t = 0; t < nthr; t++) { Fiber& f = fb[t]; f.t = t; f.warp = t / 32; f.lane = t % 32; f.state = READY; f.c.bid = b; f.c.tid = {t % g_bdim.x, t / g_bdim.x % g_bdim.y, t / g_bdim.x / g_bdim.y}; f.cnt.assign(f.cnt.size(), 0); f.grp.clear(); f.open.clear(); kn(f.warp, f.lane, f.lane) = 1;
    void** s = (void**)(f.stk + STK - 128); *--s = nullptr; *--s = (void*)entry; for (int i = 0; i < 6; i++) *--s = nullptr; f.sp = s; f.fake = nullptr; ready.push_back(t); }
  n_threads += nthr;
  for (;;) { if (failed) return; if (rhead == ready.size()) { ready.clear(); rhead = 0; if (ndone == nthr) break; if (nwait && nwait + ndone == nthr) { release_block(); continue; }
      std::string m = "DEADLOCK:"; int k = 0; for (auto& f : fb) if (f.state != DONE && k++ < 4) m += fmt(" thread %d waits for %s mask %#x %s;", f.t, f.state == WBLOCK ? "__syncthreads" : "warp op", f.state == WWARP ? f.mask : 0, where(f.pc).c_str()); note("deadlock", m + fmt(" (%d exited)", ndone)); failed = true; return; }
    int t; if (cfg.policy == 0) t = ready[rhead++]; else if (cfg.policy == 1) { t = ready.back(); ready.pop_back(); } else { size_t i = rhead + rnd() % (ready.size() - rhead); std::swap(ready[i], ready.back()); t = ready.back(); ready.pop_back(); }
    cf = &fb[t]; cur = (ThreadCtx*)(cf->stk + STK - 64); *cur = cf->c;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&sched_fake, cf->stk, STK);
#endif
    cusim_switch(&sched_sp, cf->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(sched_fake, nullptr, nullptr);
#endif
    cur = nullptr; }
  for (auto& f : fb) if (!f.grp.empty() || !f.open.empty()) { note("cpleak", "ASYNC kernel ends with cp.async copies never waited for"); break; }
  if (cfg.stats) { flush_stats(); blk_unique += bsec.size(); bsec.clear(); } }
void launch(cusim_dim3 g, cusim_dim3 b, size_t smem, void (*fn)(void*), void* arg) { nthr = b.x * b.y * b.z; nwarp = (nthr + 31) / 32;
  if (!mod_base) { dl_iterate_phdr(cb, (void*)&launch); dl_iterate_phdr(cb2, nullptr); }
  if (nthr < 1 || nthr > 1024 || b.z > 64 || g.y > 65535 || g.z > 65535 || !g.x || !g.y || !g.z) { note("cfg", "LAUNCH invalid grid/block"); failed = true; return; }
  if ((int)smem > cfg.max_smem) { note("cfgs", fmt("LAUNCH dynamic shared memory %zu > %d", smem, cfg.max_smem)); failed = true; return; }
  if (failed) return;
  if (!sm) { sm = new Region; size_t cap = 512 * 1024; sm->map = mmap(nullptr, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); sm->lo = (uintptr_t)sm->map; sm->hi = sm->lo + cap; sm->sh.resize(cap / GR); sm->name = "smem"; sm->shared = true; regs.insert(regs.begin(), sm); }
  while ((int)fb.size() < nthr) { fb.emplace_back(); fb.back().stk = (char*)mmap(nullptr, STK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0); fb.back().t = (int)fb.size() - 1; }
  for (size_t i = nthr; i < fb.size(); i++) fb[i].state = DONE;
  std::vector<Fiber> keep; if ((int)fb.size() > nthr) { keep.assign(std::make_move_iterator(fb.begin() + nthr), std::make_move_iterator(fb.end())); fb.resize(nthr); }
  known.assign(nwarp * 1024, 0); recs.resize(nwarp); g_bdim = {b.x, b.y, b.z}; g_gdim = {g.x, g.y, g.z}; kfn = fn; karg = arg; rng = cfg.seed * 2654435761u | 1; launch_first = g_blk + 1;
  char here; host_lo = (uintptr_t)&here - 4096; host_hi = (uintptr_t)&here + 65536;
  std::vector<Idx> order; for (unsigned z = 0; z < g.z; z++) for (unsigned y = 0; y < g.y; y++) for (unsigned x = 0; x < g.x; x++) order.push_back({x, y, z});
  if (cfg.policy == 1) std::reverse(order.begin(), order.end()); else if (cfg.policy == 2) for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[rnd() % i]);
  for (auto& o : order) { if (failed) break; run_block(o, smem); }
  for (auto& k : keep) fb.push_back(std::move(k)); cf = nullptr; }
} // namespace cusim
// The CUDA runtime's functions that launchers call.
extern "C" {
cudaError_t cudaGetLastError() { return cusim::failed ? cudaErrorLaunchFailure : cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaGetLastError(); }
const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "a fault seen by the emulator"; }
cudaError_t cudaGetDevice(int* d) { *d = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) { *v = a == cudaDevAttrMultiProcessorCount ? 3 : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? cusim::cfg.max_smem : 0; return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 1; return cudaSuccess; }
}
using namespace cusim;
extern "C" {
void cusim_config(uint32_t seed, int policy, int check, int st, int late) { cfg.seed = seed; cfg.policy = policy; cfg.check = check; cfg.stats = st; cfg.async_late = late; errors.clear(); seen.clear(); failed = false; n_access = n_switch = n_threads = n_mma = 0; stats.clear(); usec_r.clear(); usec_w.clear(); blk_unique = 0; }
void cusim_memory(uintptr_t p, size_t bytes, int init, const char* name) { auto* r = new Region; r->map = nullptr; r->maplen = 0; r->lo = p; r->hi = p + bytes; r->name = name; r->shared = false;
  r->sh.assign((bytes + GR - 1) / GR, Cell{{0,0,0,-1,0},{0,0,0,-1,0},{0,0,0,-1,0},1,(uint8_t)init,0,0}); regs.push_back(r); }
void cusim_forget(uintptr_t p) { for (size_t i = 0; i < regs.size(); i++) if (regs[i]->lo == p && !regs[i]->shared) { delete regs[i]; regs.erase(regs.begin() + i); last = nullptr; return; } }
int cusim_nerrors() { return (int)errors.size(); }
const char* cusim_error(int i) { return errors[i].c_str(); }
void cusim_counts(uint64_t* o) { o[0] = n_access; o[1] = n_switch; o[2] = n_threads; o[3] = n_mma; o[4] = usec_r.size() * 32; o[5] = usec_w.size() * 32; o[6] = blk_unique * 32; }
const char* cusim_stats() { static std::string s; s.clear(); for (auto& p : stats) { auto& x = p.second; s += fmt("%#lx %s %s %d req=%lu lanes=%lu bytes=%lu sectors=%lu waves=%lu ideal=%lu\n", (unsigned long)((uintptr_t)pcs[p.first / 2] - 1 - mod_base), x.kind & 2 ? "shared" : "global", x.kind & 1 ? "st" : "ld", x.size, x.req, x.lanes, x.bytes, x.sectors, x.waves, x.ideal); } return s.c_str(); }
// ---- gcc/clang -fsanitize=thread entry points, our own implementation ----
#define RA __builtin_return_address(0)
#define DEF(n) void __tsan_read##n(void* p) { hook(p, n, false, false, RA); } void __tsan_write##n(void* p) { hook(p, n, true, false, RA); } \
  void __tsan_unaligned_read##n(void* p) { hook(p, n, false, false, RA); } void __tsan_unaligned_write##n(void* p) { hook(p, n, true, false, RA); }
#if !defined(__SANITIZE_ADDRESS__)
DEF(1) DEF(2) DEF(4) DEF(8) DEF(16)
void __tsan_init() {} void __tsan_func_entry(void*) {} void __tsan_func_exit() {} void __tsan_vptr_update(void**, void*) {} void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t n) { hook(p, n, false, false, RA); } void __tsan_write_range(void* p, size_t n) { hook(p, n, true, false, RA); }
#endif
}
