"""The page's style sheet: light, dark and paper; wide and narrow."""

STYLESHEET = """
:root{color-scheme:light dark;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Liberation Sans",sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
--paper:#fff;--ink:#1b1f24;--muted:#5c6670;--grid:#dde1e6;--soft:#b4bdc7;--panel:#f5f7f9;
--accent:#0072b2;--second:#e69f00;--mark:#d55e00;--good:#17733f;--good-tint:#eaf5ee;--fair:#8f5200;--fair-tint:#fdf3e1}
@media screen and (prefers-color-scheme:dark){:root{
--paper:#15191e;--ink:#e4e8ec;--muted:#9ba6b1;--grid:#313942;--soft:#5d6873;--panel:#1c2229;
--accent:#56b4e9;--second:#f0b429;--mark:#ff8f57;--good:#6fd199;--good-tint:#16291f;--fair:#f2bd62;--fair-tint:#2e2414}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 var(--sans)}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem}
h2{font-size:1.3rem;line-height:1.25;margin:3rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--grid)}
h3{font-size:1.02rem;margin:2rem 0 .5rem}
p,dd,li{max-width:46rem}
p{margin:.6rem 0}
a{color:var(--accent)}
.lead,.note{color:var(--muted)}
.note{font-size:.92rem}
code{font:.9em var(--mono);overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;padding:0;margin:1rem 0 0;font-size:.92rem}
.verdict{border-left:.4rem solid var(--fair);background:var(--fair-tint);padding:.9rem 1.2rem;margin:1.25rem 0;
border-radius:0 .3rem .3rem 0}
.verdict.certified{border-color:var(--good);background:var(--good-tint)}
.verdict strong:first-child{display:block;color:var(--fair);font-size:1.05rem}
.verdict.certified strong:first-child{color:var(--good)}
.verdict p{margin:.35rem 0;max-width:none}
.verdict table{background:none}.verdict dl.pairs dd{max-width:46rem}
.verdict .words{font-size:1.15rem;line-height:1.45}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.25rem 0}
.facts div{background:var(--panel);border-radius:.3rem;padding:.7rem .9rem}
.facts dt{color:var(--muted);font-size:.86rem}
.facts dd{margin:0;font-size:1.45rem;line-height:1.3;font-variant-numeric:tabular-nums}
.facts dd small{display:block;color:var(--muted);font-size:.86rem}
.scroll{overflow-x:auto;margin:1rem 0}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;line-height:1.4}
caption{text-align:left;font-weight:600;padding:0 0 .4rem}
th,td{text-align:left;vertical-align:top;padding:.32rem .9rem .32rem 0;border-bottom:1px solid var(--grid)}
th:last-child,td:last-child{padding-right:.2rem}
thead th{color:var(--muted);font-weight:500;vertical-align:bottom;border-bottom-color:var(--soft)}
tbody th{font-weight:500}
bdi{overflow-wrap:anywhere}
bdi.short{white-space:nowrap}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
thead .number{white-space:normal}
.prose{min-width:14rem}
.marked th,.marked td{background:var(--panel)}
.marked th:first-child{box-shadow:inset .2rem 0 var(--accent);padding-left:.6rem}
.marked th{font-weight:700}
figure{margin:1.25rem 0;overflow-x:auto}
figure svg{display:block;width:100%;min-width:26rem;max-width:40rem;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
figcaption{color:var(--muted);font-size:.9rem;max-width:46rem;margin-top:.4rem}
details{margin:.75rem 0}
summary{cursor:pointer;color:var(--accent);font-size:.95rem}
dl.terms dt,dl.pairs dt{font-weight:600;margin-top:.7rem}
dl.terms dd{margin:0}
dl.pairs{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:1rem 0}
dl.pairs dt{margin:0;font-weight:500;color:var(--muted)}
dl.pairs dd{margin:0;overflow-wrap:anywhere}
.controls{display:flex;flex-wrap:wrap;gap:.5rem 1rem;margin:.6rem 0}
.control{display:inline-flex;flex-direction:column;font-size:.86rem;color:var(--muted);min-width:0}
select,input,button{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--muted);
border-radius:.3rem;padding:.3rem .5rem;max-width:17rem;min-height:2rem}
button{cursor:pointer;margin:.6rem 0}
:is(select,input,button,summary,figure):focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.view figure{margin:.6rem 0}
.view .reading{min-height:1.6em;color:var(--muted);font-size:.9rem;margin:.2rem 0}
svg [data-told]:hover{opacity:.75}
article{border:1px solid var(--grid);border-radius:.3rem;padding:.5rem .9rem;margin:.7rem 0}
article p{margin:.3rem 0;max-width:none;overflow-wrap:anywhere}
.facts-line{font-size:.92rem}
.fate{border-radius:.2rem;padding:.05rem .4rem;background:var(--fair-tint);color:var(--fair)}
.fate.kept{background:var(--good-tint);color:var(--good)}
.text{white-space:pre-wrap;font-size:.95rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1.2rem}
.side-title{font-size:.86rem;color:var(--muted)}
mark{background:var(--fair-tint);color:var(--fair);font-weight:600}
@media (max-width:40rem){.pair{grid-template-columns:1fr}select,input{max-width:100%}}
@media (max-width:40rem){main{padding:1rem .9rem 3rem}h1{font-size:1.4rem}h2{font-size:1.18rem;margin-top:2.2rem}
.facts{grid-template-columns:1fr 1fr;gap:.5rem}.facts dd{font-size:1.15rem}.verdict .words{font-size:1.05rem}
dl.pairs{grid-template-columns:1fr;gap:0}dl.pairs dd{margin-bottom:.4rem}}
@media print{main{max-width:none;padding:0}body{font-size:10pt}nav{display:none}h2,h3{break-after:avoid}
figure,tr,.verdict,.facts{break-inside:avoid}.scroll,figure{overflow:visible}figure svg{min-width:0}
a{color:inherit;text-decoration:none}}
"""
